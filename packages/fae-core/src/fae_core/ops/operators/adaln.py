"""fae::adaln. The backward pass computes the norm's statistics again, from the residual that it reads anyway."""

from __future__ import annotations

import torch
from torch import Tensor

from fae_core.ops.operators.device import once_differentiable, runs_kernels


@torch.library.custom_op("fae::adaln", mutates_args=())
def adaln(
    x: Tensor,
    update: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    layer: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Gate, residual, norm and modulation; see `fae_core.ops.adaln`.

    Args:
        x: The residual stream, (B, N, D).
        update: Output of the branch before, (B, N, D), or None.
        gate: Factor of the update, (B, D), or None.
        scale: Modulation of the norm, (B, D).
        shift: Added after the norm, (B, D), or None.
        weight: Weight of the norm, (D,), or None.
        layer: LayerNorm instead of RMSNorm.
        eps: Added to the mean square, or to the variance.

    Returns:
        (residual, out), contiguous; residual is empty where there is no update.
    """
    residual_dtype, out_dtype = _dtypes(x, update, gate, scale, shift, weight)
    if runs_kernels(x):
        from fae_core.ops.triton import adaln as kernels

        operands = kernels.Operands(update, gate, scale, shift, weight)
        residual, out = kernels.forward(x, operands, layer, eps, residual_dtype, out_dtype)
        return x.new_empty(0) if residual is None else residual, out
    wide = x.float()
    if update is not None:
        wide = wide + (update.float() if gate is None else gate.float()[:, None] * update.float())
    residual = wide.to(residual_dtype)
    out = _unit(residual.float(), layer, eps)[0]
    if weight is not None:
        out = out * weight.float()
    out = out * (1 + scale.float()[:, None])
    if shift is not None:
        out = out + shift.float()[:, None]
    return x.new_empty(0) if update is None else residual.contiguous(), out.to(out_dtype).contiguous()


@adaln.register_fake
def _(x, update, gate, scale, shift, weight, layer, eps) -> tuple[Tensor, Tensor]:
    residual_dtype, out_dtype = _dtypes(x, update, gate, scale, shift, weight)
    residual = x.new_empty(0) if update is None else x.new_empty(x.shape, dtype=residual_dtype)
    return residual, x.new_empty(x.shape, dtype=out_dtype)


@torch.library.custom_op("fae::adaln_backward", mutates_args=())
def adaln_backward(
    dout: Tensor,
    dresidual: Tensor | None,
    residual: Tensor,
    update: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    layer: bool,
    eps: float,
    x_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `adaln`; parameters that are not listed are those of `adaln`.

    Args:
        dout: Gradient of out, (B, N, D).
        dresidual: Gradient of the residual, or None where it was not used.
        residual: What was normed: the residual, or x where there was no update.
        x_dtype: Dtype of x's gradient.

    Returns:
        The gradients of x, update, gate, scale, shift and weight; empty where the input was None.
    """
    operands = (update, gate, scale, shift, weight)
    if runs_kernels(dout):
        from fae_core.ops.triton import adaln as kernels

        dx, found = kernels.backward(dout, dresidual, residual, kernels.Operands(*operands), layer, eps, x_dtype)
    else:
        dx, *found = _backward(dout, dresidual, residual, update, gate, scale, weight, layer, eps)
    dupdate, dgate, dscale, dshift, dweight = (
        dout.new_empty(0) if t is None or d is None else d.to(t.dtype).contiguous()
        for t, d in zip(operands, found, strict=True)
    )
    return dx.to(x_dtype).contiguous(), dupdate, dgate, dscale, dshift, dweight


def _backward(
    dout, dresidual, residual, update, gate, scale, weight, layer, eps
) -> tuple[Tensor, *tuple[Tensor | None, ...]]:
    """The same in plain torch."""
    unit, rstd = _unit(residual.float(), layer, eps)
    wide = dout.float()
    dunit = (wide * unit).sum(1)
    dx = wide * (1 + scale.float()[:, None])
    if weight is not None:
        dx = dx * weight.float()
    mean = dx.mean(-1, keepdim=True) if layer else 0.0
    dx = (dx - mean - unit * (dx * unit).mean(-1, keepdim=True)) * rstd
    if dresidual is not None:
        dx = dx + dresidual.float()
    return (
        dx,
        dx.clone() if gate is None else dx * gate.float()[:, None],
        None if gate is None else (dx * update.float()).sum(1),
        dunit if weight is None else dunit * weight.float(),
        wide.sum(1),
        None if weight is None else (dunit * (1 + scale.float())).sum(0),
    )


@adaln_backward.register_fake
def _(dout, dresidual, residual, update, gate, scale, shift, weight, layer, eps, x_dtype):
    others = (dout.new_empty(0) if t is None else t.new_empty(t.shape) for t in (update, gate, scale, shift, weight))
    return residual.new_empty(residual.shape, dtype=x_dtype), *others


def _setup(ctx, inputs, output) -> None:
    x, update, gate, scale, shift, weight, ctx.layer, ctx.eps = inputs
    ctx.x_dtype = x.dtype
    ctx.save_for_backward(x if update is None else output[0], update, gate, scale, shift, weight)
    ctx.set_materialize_grads(False)


def _gradient(ctx, dresidual: Tensor | None, dout: Tensor | None) -> tuple[Tensor | None, ...]:
    residual, update, gate, scale, shift, weight = ctx.saved_tensors
    if dout is None:
        dout = torch.zeros_like(residual)
    dresidual = None if update is None else dresidual
    inputs = (update, gate, scale, shift, weight)
    dx, *others = adaln_backward(dout, dresidual, residual, *inputs, ctx.layer, ctx.eps, ctx.x_dtype)
    return dx, *(None if t is None else d for t, d in zip(inputs, others, strict=True)), None, None


adaln.register_autograd(_gradient, setup_context=_setup)
once_differentiable(adaln_backward)


def _unit(x: Tensor, layer: bool, eps: float) -> tuple[Tensor, Tensor]:
    """x normed, and the factor 1 / deviation."""
    if layer:
        x = x - x.mean(-1, keepdim=True)
    rstd = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x * rstd, rstd


def _dtypes(x: Tensor, update, gate, scale: Tensor, shift, weight) -> tuple[torch.dtype, torch.dtype]:
    """Of the residual and of the output, as torch promotes them when each step is computed by itself."""
    residual = x.dtype
    for other in (update, gate) if update is not None else ():
        residual = residual if other is None else torch.promote_types(residual, other.dtype)
    out = residual
    for other in (weight, scale, shift):
        out = out if other is None else torch.promote_types(out, other.dtype)
    return residual, out
