"""Where an operator launches kernels."""

from __future__ import annotations

from torch import Tensor

from fae_core.ops import triton


def runs_kernels(x: Tensor) -> bool:
    return x.device.type == "cuda" or triton.INTERPRETED
