"""Where an operator launches kernels, and the error for a second derivative, which no kernel has."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fae_core.errors import FAEError
from fae_core.ops import triton


def runs_kernels(x: Tensor) -> bool:
    """Whether an operator launches kernels for x: on CUDA, and on the CPU under triton's interpreter."""
    return x.device.type == "cuda" or triton.INTERPRETED


class NoSecondDerivative(FAEError, RuntimeError):
    """A gradient of a kernel's gradient was asked for; also a RuntimeError, which torch raises in such a case."""


def once_differentiable(backward: Any) -> None:
    """Make the operator `backward`, which computes a gradient, raise NoSecondDerivative where its own is asked for."""

    def refuse(ctx: Any, *gradients: Tensor) -> None:
        raise NoSecondDerivative(
            f"{backward._name} has no derivative: the kernels are differentiated once; for a gradient of a gradient "
            "pin the backend, with fae_core.ops.backend('reference')"
        )

    backward.register_autograd(refuse, setup_context=lambda ctx, inputs, output: None)
