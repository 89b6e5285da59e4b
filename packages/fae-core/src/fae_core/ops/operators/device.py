"""Where an operator launches kernels, and what its gradient cannot do."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fae_core.errors import FAEError
from fae_core.ops import triton


def runs_kernels(x: Tensor) -> bool:
    return x.device.type == "cuda" or triton.INTERPRETED


class NoSecondDerivative(FAEError, RuntimeError):
    """A gradient of a kernel's gradient; a RuntimeError too, as torch itself would raise."""


def once_differentiable(backward: Any) -> None:
    """Say in our own words that the operator `backward`, a gradient, has none itself."""

    def refuse(ctx: Any, *gradients: Tensor) -> None:
        raise NoSecondDerivative(
            f"{backward._name} has no derivative: the kernels are differentiated once; for a gradient of a gradient pin the "
            "backend, with fae_core.ops.backend('reference')"
        )

    backward.register_autograd(refuse, setup_context=lambda ctx, inputs, output: None)
