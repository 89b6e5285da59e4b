"""AdaLN. The backward pass computes the norm's statistics again, from the residual that it reads anyway."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from fae_core.ops.door import Description, Door, Saved
from fae_core.ops.triton.plans import Results


@functools.cache
def _kernels() -> Any:
    from fae_core.ops.triton import adaln

    return adaln


def _forward(x, update, gate, scale, shift, weight, layer: bool, eps: float) -> Results:
    kernels = _kernels()
    operands = kernels.Operands(update, gate, scale, shift, weight)
    return kernels.forward(x, operands, layer, eps, *_dtypes(x, update, gate, scale, shift, weight))


def _forward_plain(x, update, gate, scale, shift, weight, layer: bool, eps: float) -> Results:
    residual_dtype, out_dtype = _dtypes(x, update, gate, scale, shift, weight)
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
    return None if update is None else residual.contiguous(), out.to(out_dtype).contiguous()


def _save(inputs: tuple[Any, ...], results: Results) -> Saved:
    x, update, gate, scale, shift, weight, layer, eps = inputs
    return (x if update is None else results[0], update, gate, scale, shift, weight), (layer, eps, x.dtype)


def _backward(
    dresidual, dout, residual, update, gate, scale, shift, weight, layer: bool, eps: float, x_dtype: torch.dtype
) -> Results:
    kernels = _kernels()
    if dout is None:
        dout = torch.zeros_like(residual)
    if update is None:
        dresidual = None
    operands = kernels.Operands(update, gate, scale, shift, weight)
    dx, found = kernels.backward(dout, dresidual, residual, operands, layer, eps, x_dtype)
    return dx, *found


def _backward_plain(
    dresidual, dout, residual, update: Any, gate, scale, shift, weight, layer: bool, eps: float, x_dtype: torch.dtype
) -> Results:
    unit, rstd = _unit(residual.float(), layer, eps)
    wide = torch.zeros_like(unit) if dout is None else dout.float()
    dunit = (wide * unit).sum(1)
    dx = wide * (1 + scale.float()[:, None])
    if weight is not None:
        dx = dx * weight.float()
    mean = dx.mean(-1, keepdim=True) if layer else 0.0
    dx = (dx - mean - unit * (dx * unit).mean(-1, keepdim=True)) * rstd
    if dresidual is not None and update is not None:
        dx = dx + dresidual.float()
    found = (
        dx if gate is None else dx * gate.float()[:, None],
        None if gate is None or update is None else (dx * update.float()).sum(1),
        dunit if weight is None else dunit * weight.float(),
        wide.sum(1),
        None if weight is None else (dunit * (1 + scale.float())).sum(0),
    )
    inputs = (update, gate, scale, shift, weight)
    others = (
        None if t is None or d is None else d.to(t.dtype).contiguous() for t, d in zip(inputs, found, strict=True)
    )
    return dx.to(x_dtype).contiguous(), *others


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


ADALN = Door(
    Description(
        "adaln",
        "(Tensor x, Tensor? update, Tensor? gate, Tensor scale, Tensor? shift, Tensor? weight, bool layer, float eps)"
        " -> (Tensor residual, Tensor out)",
        results=2,
        differentiable=(0, 1, 2, 3, 4, 5),
        kernel=_forward,
        plain=_forward_plain,
        save=_save,
        gradient_schema="(Tensor? dresidual, Tensor? dout, Tensor residual, Tensor? update, Tensor? gate, Tensor scale,"
        " Tensor? shift, Tensor? weight, bool layer, float eps, ScalarType x_dtype)"
        " -> (Tensor dx, Tensor dupdate, Tensor dgate, Tensor dscale, Tensor dshift, Tensor dweight)",
        gradient_kernel=_backward,
        gradient_plain=_backward_plain,
    )
)
"""Inputs (x, update, gate, scale, shift, weight, layer, eps), as for `fae_core.ops.adaln`; layer: LayerNorm.

The residual is None (of the operator: empty) where there is no update.
"""
