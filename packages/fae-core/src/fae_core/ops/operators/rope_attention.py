"""fae::rope_attention on q, k, v, and fae::self_attention on packed qkv, whose gradient is packed as well."""

from __future__ import annotations

import torch
from torch import Tensor

from fae_core.ops.operators.device import once_differentiable, runs_kernels
from fae_core.ops.operators.qk_norm_rope import norm_and_rotate, norm_and_rotate_backward, pair

_LOG2_E = 1.4426950408889634


@torch.library.custom_op("fae::rope_attention", mutates_args=())
def rope_attention(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor | None, sin: Tensor | None, interleaved: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention, after a rotation where there are tables; see `fae_core.ops.rope_attention`.

    Args:
        q: Queries, (B, N, H, D).
        k: Keys, (B, M, H, D); M = N where there are tables.
        v: Values, (B, M, H, D).
        cos: Cosines of the angles in fp32, (N, D/2) or (B, 1, N, D/2), or None for no rotation.
        sin: Sines of the angles, given where cos is.
        interleaved: Pairs are neighbours; otherwise they are D/2 apart.
        scale: Factor of the scores.

    Returns:
        (out, lse): out (B, N, H, D), contiguous, in q's dtype; lse (B, H, N), fp32, the log2 of each row's sum of
        exponentials.
    """
    return _forward(q, k, v, cos, sin, None, None, interleaved, scale, 0.0)


@torch.library.custom_op("fae::self_attention", mutates_args=())
def self_attention(
    qkv: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    interleaved: bool,
    scale: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """`rope_attention` of packed qkv, with an RMS norm before the rotation where there is a weight.

    Args:
        qkv: Packed queries, keys and values, (B, N, 3, H, D).
        cos: As for `rope_attention`.
        sin: As for `rope_attention`.
        q_weight: Weight of the queries' norm, (D,), or None for no norm.
        k_weight: Weight of the keys' norm, (D,), or None for no norm.
        interleaved: As for `rope_attention`.
        scale: As for `rope_attention`.
        eps: Added to the mean square in the norms.

    Returns:
        (out, lse), as `rope_attention` returns them.
    """
    q, k, v = qkv.unbind(2)
    return _forward(q, k, v, cos, sin, q_weight, k_weight, interleaved, scale, eps)


@torch.library.custom_op("fae::rope_attention_backward", mutates_args=())
def rope_attention_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    out: Tensor,
    lse: Tensor,
    interleaved: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `rope_attention`; parameters that are not listed are those of `rope_attention`.

    Args:
        dout: Gradient of out, (B, N, H, D).
        out: As `rope_attention` returned it.
        lse: As `rope_attention` returned it.

    Returns:
        (dq, dk, dv), contiguous.
    """
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    _backward(dout, q, k, v, cos, sin, (None, None), out, lse, interleaved, scale, 0.0, [dq, dk, dv])
    return dq, dk, dv


@torch.library.custom_op("fae::self_attention_backward", mutates_args=())
def self_attention_backward(
    dout: Tensor,
    qkv: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    out: Tensor,
    lse: Tensor,
    interleaved: bool,
    scale: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `self_attention`; parameters that are not listed are those of `self_attention`.

    Args:
        dout: Gradient of out, (B, N, H, D).
        out: As `self_attention` returned it.
        lse: As `self_attention` returned it.

    Returns:
        (dqkv, dq_weight, dk_weight): dqkv packed and contiguous; the gradient of an absent weight is empty.
    """
    q, k, v = qkv.unbind(2)
    dqkv, weights = qkv.new_empty(qkv.shape), (q_weight, k_weight)
    grads = list(dqkv.unbind(2))
    dweights = _backward(dout, q, k, v, cos, sin, weights, out, lse, interleaved, scale, eps, grads)
    return dqkv, *dweights


@rope_attention.register_fake
def _(q, k, v, cos, sin, interleaved, scale) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32)


@self_attention.register_fake
def _(qkv, cos, sin, q_weight, k_weight, interleaved, scale, eps) -> tuple[Tensor, Tensor]:
    batch, tokens, _, heads, width = qkv.shape
    return qkv.new_empty((batch, tokens, heads, width)), qkv.new_empty((batch, heads, tokens), dtype=torch.float32)


@rope_attention_backward.register_fake
def _(dout, q, k, v, cos, sin, out, lse, interleaved, scale) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    return dq, dk, dv


@self_attention_backward.register_fake
def _(dout, qkv, cos, sin, q_weight, k_weight, out, lse, interleaved, scale, eps):
    return qkv.new_empty(qkv.shape), *(_like(w, qkv) for w in (q_weight, k_weight))


def _setup(ctx, inputs, output) -> None:
    *tensors, ctx.interleaved, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _gradient(ctx, dout: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    dqkv = rope_attention_backward(dout, *ctx.saved_tensors, ctx.interleaved, ctx.scale)
    return *dqkv, None, None, None, None


def _setup_packed(ctx, inputs, output) -> None:
    *tensors, ctx.interleaved, ctx.scale, ctx.eps = inputs
    ctx.save_for_backward(*tensors, *output)


def _gradient_packed(ctx, dout: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    dqkv, *dweights = self_attention_backward(dout, *saved, ctx.interleaved, ctx.scale, ctx.eps)
    given = (None if w is None else d for w, d in zip(saved[3:5], dweights, strict=True))
    return dqkv, None, None, *given, None, None, None


rope_attention.register_autograd(_gradient, setup_context=_setup)
once_differentiable(rope_attention_backward)
self_attention.register_autograd(_gradient_packed, setup_context=_setup_packed)
once_differentiable(self_attention_backward)


def _forward(q, k, v, cos, sin, q_weight, k_weight, interleaved, scale, eps) -> tuple[Tensor, Tensor]:
    if runs_kernels(q):
        from fae_core.ops.triton import rope_attention as kernels

        return kernels.forward(q, k, v, (q_weight, k_weight), pair(cos, sin), interleaved, scale, eps)
    q, k = _prepared(q, k, cos, sin, (q_weight, k_weight), interleaved, eps)
    scores = q @ k.mT * (scale * _LOG2_E)
    top = scores.amax(-1, keepdim=True)
    weights = torch.exp2(scores - top)
    total = weights.sum(-1, keepdim=True)
    out = (weights / total) @ _heads_first(v)
    return out.transpose(1, 2).to(v.dtype).contiguous(), (top + total.log2()).squeeze(-1)


def _backward(
    dout, q, k, v, cos, sin, weights, out, lse, interleaved, scale, eps, grads: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Write the gradients of q, k, v to `grads`; returns those of the weights."""
    if runs_kernels(q):
        from fae_core.ops.triton import rope_attention_backward as kernels

        found = kernels.backward(dout, q, k, v, out, lse, weights, pair(cos, sin), interleaved, scale, eps, grads)
        dqw, dkw = (q.new_empty(0) if d is None else d for d in found)
        return dqw, dkw
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


def _like(weight: Tensor | None, x: Tensor) -> Tensor:
    return x.new_empty(0) if weight is None else weight.new_empty(weight.shape)
