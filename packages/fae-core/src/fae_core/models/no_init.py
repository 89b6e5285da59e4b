"""Building a model without drawing its initial weights, where a file's replace them right after.

To draw them takes as long as to read them: 4 s on one core for LightningDiT-XL, 1.4 s for LPIPS' VGG16, whose
classifier is then dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS = frozenset({Tensor.uniform_, Tensor.normal_, Tensor.erfinv_})  # what other functions of nn.init are made of


@contextmanager
def no_initial_weights() -> Iterator[None]:
    """Within it, most functions of `torch.nn.init` leave parameters as they find them; buffers are drawn as ever.

    A parameter then holds what its memory happened to hold: only for models whose every parameter is loaded, strictly,
    before anybody sees one. The global generators are left as they were: how many numbers `nn.init.trunc_normal_` draws
    depends on what it finds.
    """
    device = torch.get_default_device()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _ParametersAsTheyAre():
        yield


class _ParametersAsTheyAre(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # nn.init hands some of its functions over whole; within them this mode is off.
        if func in _DRAWS or getattr(func, "__module__", None) == nn.init.__name__:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **kwargs)
