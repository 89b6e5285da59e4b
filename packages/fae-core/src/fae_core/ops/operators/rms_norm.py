"""fae::rms_norm. The saved rstd makes the backward pass one sweep over x and dy."""

from __future__ import annotations

import torch
from torch import Tensor

from fae_core.ops.operators.device import once_differentiable, runs_kernels


@torch.library.custom_op("fae::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm over the last axis, and what its backward pass needs.

    Args:
        x: (..., D).
        weight: (D,), or None for no weight.
        eps: Added to the mean square.

    Returns:
        (y, rstd): y contiguous in the dtype that x * weight has, rstd in fp32 of x's leading axes.
    """
    dtype = _dtype(x, weight)
    if runs_kernels(x):
        from fae_core.ops.triton import rms_norm as kernels

        return kernels.forward(x, weight, eps, dtype)
    rstd = torch.rsqrt(x.float().square().mean(-1) + eps)
    y = x.float() * rstd[..., None]
    return (y if weight is None else y * weight.float()).to(dtype).contiguous(), rstd


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=_dtype(x, weight)), x.new_empty(x.shape[:-1], dtype=torch.float32)


@torch.library.custom_op("fae::rms_norm_backward", mutates_args=())
def rms_norm_backward(dy: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `rms_norm`; parameters that are not listed are those of `rms_norm`.

    Args:
        dy: Gradient of the result, (..., D).
        rstd: As `rms_norm` returned it.

    Returns:
        (dx, dweight); dweight is empty where there is no weight.
    """
    if runs_kernels(x):
        from fae_core.ops.triton import rms_norm as kernels

        dx, dweight = kernels.backward(dy, x, weight, rstd)
        return dx, x.new_empty(0) if dweight is None else dweight
    unit, wide = x.float() * rstd[..., None], dy.float()
    dweight = x.new_empty(0) if weight is None else (wide * unit).flatten(0, -2).sum(0).to(weight.dtype)
    wide = wide if weight is None else wide * weight.float()
    dx = (wide - unit * (wide * unit).mean(-1, keepdim=True)) * rstd[..., None]
    return dx.to(x.dtype).contiguous(), dweight


@rms_norm_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(0) if weight is None else weight.new_empty(weight.shape)


def _setup(ctx, inputs, output) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight, output[1])


def _gradient(ctx, dy: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None]:
    x, weight, rstd = ctx.saved_tensors
    dx, dweight = rms_norm_backward(dy, x, weight, rstd)
    return dx, None if weight is None else dweight, None


rms_norm.register_autograd(_gradient, setup_context=_setup)
once_differentiable(rms_norm_backward)


def _dtype(x: Tensor, weight: Tensor | None) -> torch.dtype:
    return x.dtype if weight is None else torch.promote_types(x.dtype, weight.dtype)
