"""RMSNorm. The kept rstd makes the backward pass one sweep over x and dy."""

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


def _forward(x: Tensor, weight: Tensor | None, eps: float) -> Results:
    kernels, dtype = _kernels(), _dtype(x, weight)
    _, y, stats = kernels.forward(x, kernels.Operands(weight=weight), False, eps, dtype, dtype)
    return y, stats.view(x.shape[:-1])


def _forward_plain(x: Tensor, weight: Tensor | None, eps: float) -> Results:
    rstd = torch.rsqrt(x.float().square().mean(-1) + eps)
    y = x.float() * rstd[..., None]
    return (y if weight is None else y * weight.float()).to(_dtype(x, weight)).contiguous(), rstd


def _save(inputs: tuple[Any, ...], results: Results) -> Saved:
    x, weight, _ = inputs
    return (x, weight, results[1]), ()


def _backward(dy: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor) -> Results:
    kernels = _kernels()
    dx, found = kernels.backward(dy, None, x, rstd, kernels.Operands(weight=weight), False, x.dtype)
    return dx, found.weight


def _backward_plain(dy: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor) -> Results:
    unit, wide = x.float() * rstd[..., None], dy.float()
    dweight = None if weight is None else (wide * unit).flatten(0, -2).sum(0).to(weight.dtype)
    wide = wide if weight is None else wide * weight.float()
    dx = (wide - unit * (wide * unit).mean(-1, keepdim=True)) * rstd[..., None]
    return dx.to(x.dtype).contiguous(), dweight


def _dtype(x: Tensor, weight: Tensor | None) -> torch.dtype:
    return x.dtype if weight is None else torch.promote_types(x.dtype, weight.dtype)


RMS_NORM = Door(
    Description(
        "rms_norm",
        "(Tensor x, Tensor? weight, float eps) -> (Tensor y, Tensor rstd)",
        results=1,
        differentiable=(0, 1),
        kernel=_forward,
        plain=_forward_plain,
        save=_save,
        gradient_schema="(Tensor dy, Tensor x, Tensor? weight, Tensor rstd) -> (Tensor dx, Tensor dweight)",
        gradient_kernel=_backward,
        gradient_plain=_backward_plain,
    )
)
"""Inputs (x, weight, eps), as for `fae_core.ops.rms_norm`. The operator also gives rstd, fp32, of x's leading axes."""
