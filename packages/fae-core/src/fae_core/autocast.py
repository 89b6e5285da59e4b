"""The precision of a forward pass: bf16 by autocast, but for convolutions on CPUs that have no instructions for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = frozenset(getattr(torch, f"conv{kind}{sides}d") for kind in ("", "_transpose") for sides in (1, 2, 3))


@contextmanager
def autocast(device: str, precision: str) -> Iterator[None]:
    """The context of a forward pass.

    Without instructions for bf16 (AVX-512 on x86) torch computes bf16 convolutions a hundred times slower than fp32
    ones; there they stay in fp32.

    Args:
        device: "cpu", "cuda", or "cuda:0" and so on.
        precision: "fp32", or "bf16" for autocast.
    """
    kind = device.partition(":")[0]
    if precision != "bf16":
        yield
    elif kind != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        with torch.autocast(kind, torch.bfloat16):
            yield
    else:
        with torch.autocast(kind, torch.bfloat16), ExactConvolutions():
            yield


class ExactConvolutions(TorchFunctionMode):
    """Convolutions are computed in fp32, whatever autocast says."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func not in _CONVOLUTIONS:
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return func(*map(_widened, args), **{name: _widened(value) for name, value in (kwargs or {}).items()})


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value
