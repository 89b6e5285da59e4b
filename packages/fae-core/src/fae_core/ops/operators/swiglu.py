"""SwiGLU's elementwise part, with the gradient of the bias of the projection before it."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from fae_core.ops.door import Description, Door, Saved
from fae_core.ops.triton.plans import Results


@functools.cache
def _kernels() -> Any:
    from fae_core.ops.triton import swiglu

    return swiglu


def _forward(x: Tensor, bias: Tensor | None) -> Results:
    return (_kernels().forward(x),)


def _forward_plain(x: Tensor, bias: Tensor | None) -> Results:
    gate, up = x.float().chunk(2, dim=-1)
    return ((torch.nn.functional.silu(gate) * up).to(x.dtype).contiguous(),)


def _save(inputs: tuple[Any, ...], results: Results) -> Saved:
    return inputs, ()


def _backward(dy: Tensor, x: Tensor, bias: Tensor | None) -> Results:
    return _kernels().backward(dy, x, bias)


def _backward_plain(dy: Tensor, x: Tensor, bias: Tensor | None) -> Results:
    gate, up = x.float().chunk(2, dim=-1)
    sigmoid, wide = gate.sigmoid(), dy.float()
    dx = torch.cat([wide * up * sigmoid * (1 + gate * (1 - sigmoid)), wide * gate * sigmoid], dim=-1)
    return dx.to(x.dtype), None if bias is None else dx.flatten(0, -2).sum(0).to(bias.dtype)


SWIGLU = Door(
    Description(
        "swiglu",
        "(Tensor x, Tensor? bias) -> Tensor",
        results=1,
        differentiable=(0, 1),
        kernel=_forward,
        plain=_forward_plain,
        save=_save,
        gradient_schema="(Tensor dy, Tensor x, Tensor? bias) -> (Tensor dx, Tensor dbias)",
        gradient_kernel=_backward,
        gradient_plain=_backward_plain,
    )
)
"""Inputs: gate and up packed, (..., 2 * D), and what their projection has added to them, (2 * D,), or None.

The bias is not added again; its gradient is the sum of x's.
"""
