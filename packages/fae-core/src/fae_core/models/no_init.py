"""Building a model without drawing its initial weights, where a file's replace them right after.

To draw them takes as long as to read them: 4 s on one core for LightningDiT-XL, 1.4 s for LPIPS' VGG16, whose
classifier is then dropped.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS = frozenset({Tensor.uniform_, Tensor.normal_, Tensor.erfinv_})  # what other functions of nn.init are made of


class no_initial_weights(TorchFunctionMode):
    """Within it, most functions of `torch.nn.init` leave parameters as they find them; buffers are drawn as ever.

    A parameter then holds what its memory happened to hold: only for models whose every parameter is loaded, strictly,
    before anybody sees one.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # nn.init hands some of its functions over whole; within them this mode is off.
        if func in _DRAWS or getattr(func, "__module__", None) == nn.init.__name__:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **kwargs)
