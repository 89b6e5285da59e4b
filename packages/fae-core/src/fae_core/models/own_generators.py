"""Random numbers in which torch's global generators have no part, so that threads may build models at the same time."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class OwnGenerators(TorchDispatchMode):
    """Within it this thread draws from generators of its own, one on each device, where no other is given.

    The global generators are neither read nor moved; other threads go on with them. The numbers are those that the
    global ones give after `torch.manual_seed(seed)`. Dropout takes no generator and is left as it is.

    Args:
        seed: Of each generator.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None:
            taking, device = _taking_a_generator(func), _device(args, kwargs)
            if taking is not None and device.type != "meta":
                return taking(*args, **{**kwargs, "generator": self._on(device)})
        return func(*args, **kwargs)

    def _on(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


def _device(args: Any, kwargs: Any) -> torch.device:
    """Where a function draws."""
    of_tensor = next((x.device for x in args if isinstance(x, Tensor)), torch.device("cpu"))
    device = torch.device(kwargs.get("device") or of_tensor)
    return torch.empty(0, device=device).device if device.index is None else device  # "cuda" is one of its devices


@functools.cache
def _taking_a_generator(func: Any) -> Any | None:
    """The overload of a random function that takes a generator beside the same arguments; None where none does."""

    def rest(overload: Any) -> list[tuple[str, str]]:
        return [(x.name, str(x.type)) for x in overload._schema.arguments if x.name != "generator"]

    overloads = [getattr(func.overloadpacket, name) for name in func.overloadpacket.overloads()]
    fits = (x for x in overloads if rest(x) == rest(func) and len(rest(x)) < len(x._schema.arguments))
    return next(fits, None)
