"""Attention after a rotation of q and k, and after a norm and rotation of packed qkv, whose gradient is packed too."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from fae_core.ops.door import Description, Door, Saved
from fae_core.ops.operators.qk_norm_rope import norm_and_rotate, norm_and_rotate_backward, pair
from fae_core.ops.triton.plans import Results

_LOG2_E = 1.4426950408889634


@functools.cache
def _kernels() -> tuple[Any, Any]:
    from fae_core.ops.triton import rope_attention, rope_attention_backward

    return rope_attention, rope_attention_backward


def _forward(q, k, v, cos, sin, interleaved: bool, scale: float) -> Results:
    return _kernels()[0].forward(q, k, v, (None, None), pair(cos, sin), interleaved, scale, 0.0)


def _forward_plain(q, k, v, cos, sin, interleaved: bool, scale: float) -> Results:
    return _attend(q, k, v, cos, sin, (None, None), interleaved, scale, 0.0)


def _save(inputs: tuple[Any, ...], results: Results) -> Saved:
    return (*inputs[:5], *results), inputs[5:]


def _backward(dout, q, k, v, cos, sin, out, lse, interleaved: bool, scale: float) -> Results:
    grads = [x.new_empty(x.shape) for x in (q, k, v)]
    _kernels()[1].backward(dout, q, k, v, out, lse, (None, None), pair(cos, sin), interleaved, scale, 0.0, grads)
    return tuple(grads)


def _backward_plain(dout, q, k, v, cos, sin, out, lse, interleaved: bool, scale: float) -> Results:
    grads = [x.new_empty(x.shape) for x in (q, k, v)]
    _attend_backward(dout, q, k, v, cos, sin, (None, None), out, lse, interleaved, scale, 0.0, grads)
    return tuple(grads)


ROPE_ATTENTION = Door(
    Description(
        "rope_attention",
        "(Tensor q, Tensor k, Tensor v, Tensor? cos, Tensor? sin, bool interleaved, float scale)"
        " -> (Tensor out, Tensor lse)",
        results=1,
        differentiable=(0, 1, 2),
        kernel=_forward,
        plain=_forward_plain,
        save=_save,
        gradient_schema="(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor? cos, Tensor? sin, Tensor out, Tensor lse,"
        " bool interleaved, float scale) -> (Tensor dq, Tensor dk, Tensor dv)",
        gradient_kernel=_backward,
        gradient_plain=_backward_plain,
    )
)
"""Inputs: q (B, N, H, D), k and v (B, M, H, D), tables in fp32 or None, whether pairs are neighbours, the scale.

out is (B, N, H, D), contiguous, in q's dtype. The operator also gives lse (B, H, N), fp32, the log2 of each row's sum
of exponentials.
"""


def _forward_packed(qkv, cos, sin, q_weight, k_weight, interleaved: bool, scale: float, eps: float) -> Results:
    weights = (q_weight, k_weight)
    return _kernels()[0].forward(*qkv.unbind(2), weights, pair(cos, sin), interleaved, scale, eps)


def _forward_packed_plain(qkv, cos, sin, q_weight, k_weight, interleaved: bool, scale: float, eps: float) -> Results:
    q, k, v = qkv.unbind(2)
    return _attend(q, k, v, cos, sin, (q_weight, k_weight), interleaved, scale, eps)


def _backward_packed(
    dout, qkv, cos, sin, q_weight, k_weight, out, lse, interleaved: bool, scale: float, eps: float
) -> Results:
    dqkv, weights = qkv.new_empty(qkv.shape), (q_weight, k_weight)
    options = (interleaved, scale, eps, dqkv.unbind(2))
    return dqkv, *_kernels()[1].backward(dout, *qkv.unbind(2), out, lse, weights, pair(cos, sin), *options)


def _backward_packed_plain(
    dout, qkv, cos, sin, q_weight, k_weight, out, lse, interleaved: bool, scale: float, eps: float
) -> Results:
    dqkv, weights = qkv.new_empty(qkv.shape), (q_weight, k_weight)
    q, k, v = qkv.unbind(2)
    grads = list(dqkv.unbind(2))
    found = _attend_backward(dout, q, k, v, cos, sin, weights, out, lse, interleaved, scale, eps, grads)
    return dqkv, *found


SELF_ATTENTION = Door(
    Description(
        "self_attention",
        "(Tensor qkv, Tensor? cos, Tensor? sin, Tensor? q_weight, Tensor? k_weight, bool interleaved, float scale,"
        " float eps) -> (Tensor out, Tensor lse)",
        results=1,
        differentiable=(0, 3, 4),
        kernel=_forward_packed,
        plain=_forward_packed_plain,
        save=_save,
        gradient_schema="(Tensor dout, Tensor qkv, Tensor? cos, Tensor? sin, Tensor? q_weight, Tensor? k_weight,"
        " Tensor out, Tensor lse, bool interleaved, float scale, float eps)"
        " -> (Tensor dqkv, Tensor dq_weight, Tensor dk_weight)",
        gradient_kernel=_backward_packed,
        gradient_plain=_backward_packed_plain,
    )
)
"""Inputs: packed qkv (B, N, 3, H, D), tables in fp32 or None, weights of the norms or None, whether pairs are
neighbours, the scale, what is added to the mean square. Results as of `ROPE_ATTENTION`."""


def _attend(q, k, v, cos, sin, weights, interleaved, scale, eps) -> tuple[Tensor, Tensor]:
    q, k = _prepared(q, k, cos, sin, weights, interleaved, eps)
    scores = q @ k.mT * (scale * _LOG2_E)
    top = scores.amax(-1, keepdim=True)
    unnormalised = torch.exp2(scores - top)
    total = unnormalised.sum(-1, keepdim=True)
    out = (unnormalised / total) @ _heads_first(v)
    return out.transpose(1, 2).to(v.dtype).contiguous(), (top + total.log2()).squeeze(-1)


def _attend_backward(
    dout, q, k, v, cos, sin, weights, out, lse, interleaved, scale, eps, grads: list[Tensor]
) -> tuple[Tensor | None, Tensor | None]:
    """Write the gradients of q, k, v to `grads`; returns those of the weights."""
    turned_q, turned_k = _prepared(q, k, cos, sin, weights, interleaved, eps)
    wide_out, wide_dout = _heads_first(out), _heads_first(dout)
    probabilities = torch.exp2(turned_q @ turned_k.mT * (scale * _LOG2_E) - lse[..., None])
    dprobabilities = wide_dout @ _heads_first(v).mT
    dscores = probabilities * (dprobabilities - (wide_dout * wide_out).sum(-1, keepdim=True)) * scale
    grads[2].copy_((probabilities.mT @ wide_dout).transpose(1, 2))
    dweights = []
    for x, d, weight, grad in (
        (q, dscores @ turned_k, weights[0], grads[0]),
        (k, dscores.mT @ turned_q, weights[1], grads[1]),
    ):
        dx, dweight = norm_and_rotate_backward(d.transpose(1, 2), x, weight, cos, sin, interleaved, eps)
        grad.copy_(dx)
        dweights.append(dweight)
    return dweights[0], dweights[1]


def _prepared(q, k, cos, sin, weights, interleaved, eps) -> tuple[Tensor, Tensor]:
    """q and k normed and rotated, (B, H, N, D) fp32."""
    q, k = (
        _heads_first(norm_and_rotate(x.float(), w, cos, sin, interleaved, eps))
        for x, w in zip((q, k), weights, strict=True)
    )
    return q, k


def _heads_first(x: Tensor) -> Tensor:
    return x.transpose(1, 2).float()
