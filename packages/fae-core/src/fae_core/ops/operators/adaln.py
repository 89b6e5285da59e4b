"""AdaLN, and residual and RMSNorm. The norm's statistics are kept, so that the backward pass sums over a row once."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from fae_core.ops.door import Description, Door, Saved
from fae_core.ops.triton.plans import Results


@functools.cache
def _kernels() -> Any:
    from fae_core.ops.triton import row_norm

    return row_norm


def _forward(x, update, gate, scale, shift, weight, bias, layer: bool, eps: float) -> Results:
    kernels = _kernels()
    operands = kernels.Operands(update, gate, scale, shift, weight)
    return kernels.forward(x, operands, layer, eps, *_dtypes(x, update, gate, scale, shift, weight))


def _forward_plain(x, update, gate, scale, shift, weight, bias, layer: bool, eps: float) -> Results:
    residual_dtype, out_dtype = _dtypes(x, update, gate, scale, shift, weight)
    wide = x.float()
    if update is not None:
        wide = wide + (update.float() if gate is None else gate.float()[:, None] * update.float())
    residual = wide.to(residual_dtype)
    out, stats = _unit(residual.float(), layer, eps)
    if weight is not None:
        out = out * weight.float()
    if scale is not None:
        out = out * (1 + scale.float()[:, None])
    if shift is not None:
        out = out + shift.float()[:, None]
    return None if update is None else residual.contiguous(), out.to(out_dtype).contiguous(), stats


def _save(inputs: tuple[Any, ...], results: Results) -> Saved:
    x, update, gate, scale, shift, weight, bias, layer, _ = inputs
    residual = x if update is None else results[0]
    # Without a gate the update is not needed again, only that there was one.
    kept = update if gate is not None or update is None else residual
    return (residual, results[2], kept, gate, scale, shift, weight, bias), (layer, x.dtype)


def _backward(
    dresidual, dout, residual, stats, update, gate, scale, shift, weight, bias, layer: bool, x_dtype: torch.dtype
) -> Results:
    kernels = _kernels()
    if dout is None:
        dout = torch.zeros_like(residual)
    if update is None:
        dresidual = None
    operands = kernels.Operands(update, gate, scale, shift, weight, bias)
    dx, found = kernels.backward(dout, dresidual, residual, stats, operands, layer, x_dtype)
    return dx, *found


def _backward_plain(
    dresidual, dout, residual, stats, update: Any, gate, scale, shift, weight, bias, layer: bool, x_dtype: torch.dtype
) -> Results:
    rstd, *mean = stats.view(-1, *residual.shape[:-1], 1)
    unit = (residual.float() - mean[0] if layer else residual.float()) * rstd
    wide = torch.zeros_like(unit) if dout is None else dout.float()
    dunit = (wide * unit).sum(1)
    dx = wide if scale is None else wide * (1 + scale.float()[:, None])
    if weight is not None:
        dx = dx * weight.float()
    level = dx.mean(-1, keepdim=True) if layer else 0.0
    dx = (dx - level - unit * (dx * unit).mean(-1, keepdim=True)) * rstd
    if dresidual is not None and update is not None:
        dx = dx + dresidual.float()
    dupdate = dx if gate is None else dx * gate.float()[:, None]
    found = (
        dupdate,
        None if gate is None or update is None else (dx * update.float()).sum(1),
        dunit if weight is None else dunit * weight.float(),
        wide.sum(1),
        None if weight is None else (dunit if scale is None else dunit * (1 + scale.float())).sum(0),
        dupdate.sum((0, 1)),
    )
    inputs = (update, gate, scale, shift, weight, bias)
    others = (
        None if t is None or d is None else d.to(t.dtype).contiguous() for t, d in zip(inputs, found, strict=True)
    )
    return dx.to(x_dtype).contiguous(), *others


def _unit(x: Tensor, layer: bool, eps: float) -> tuple[Tensor, Tensor]:
    """x normed, and its statistics: 1 / deviation of each row and, of LayerNorm, its mean, (1 or 2, rows)."""
    mean = x.mean(-1, keepdim=True)
    x = x - mean if layer else x
    rstd = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x * rstd, torch.stack([rstd, mean] if layer else [rstd]).view(2 if layer else 1, rstd.numel())


def _dtypes(x: Tensor, update, gate, scale, shift, weight) -> tuple[torch.dtype, torch.dtype]:
    """Of the residual and of the output, as torch promotes them when each step is computed by itself."""
    residual = x.dtype
    for other in (update, gate) if update is not None else ():
        residual = residual if other is None else torch.promote_types(residual, other.dtype)
    out = residual
    for other in (weight, scale, shift):
        out = out if other is None else torch.promote_types(out, other.dtype)
    return residual, out


ADALN = Door(
    Description(
        "adaln",
        "(Tensor x, Tensor? update, Tensor? gate, Tensor? scale, Tensor? shift, Tensor? weight, Tensor? bias,"
        " bool layer, float eps) -> (Tensor residual, Tensor out, Tensor stats)",
        results=2,
        differentiable=(0, 1, 2, 3, 4, 5, 6),
        kernel=_forward,
        plain=_forward_plain,
        save=_save,
        gradient_schema="(Tensor? dresidual, Tensor? dout, Tensor residual, Tensor stats, Tensor? update, Tensor? gate,"
        " Tensor? scale, Tensor? shift, Tensor? weight, Tensor? bias, bool layer, ScalarType x_dtype)"
        " -> (Tensor dx, Tensor dupdate, Tensor dgate, Tensor dscale, Tensor dshift, Tensor dweight, Tensor dbias)",
        gradient_kernel=_backward,
        gradient_plain=_backward_plain,
    )
)
"""Inputs (x, update, gate, scale, shift, weight, bias, layer, eps), as for `fae_core.ops.adaln`; layer: LayerNorm.

bias is what the update's projection has added to the update: it is not added again, and its gradient is the sum of the
update's, which the kernel has at hand. The residual is None (of the operator: empty) where there is no update.
"""
