"""fae::qk_norm_rope on packed qkv, and fae::apply_rope on heads. Rotation tables carry no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from fae_core.ops import reference
from fae_core.ops.operators.device import once_differentiable, runs_kernels


@torch.library.custom_op("fae::qk_norm_rope", mutates_args=())
def qk_norm_rope(
    qkv: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    interleaved: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Split packed qkv, and norm and rotate q and k; see `fae_core.ops.qk_norm_rope`.

    Args:
        qkv: Packed queries, keys and values, (B, N, 3, H, D).
        cos: Cosines of the angles in fp32, (N, D/2) or (B, 1, N, D/2), or None for no rotation.
        sin: Sines of the angles, given where cos is.
        q_weight: Weight of the queries' norm, (D,), or None for no norm.
        k_weight: Weight of the keys' norm, (D,), or None for no norm.
        interleaved: Pairs are neighbours; otherwise they are D/2 apart.
        eps: Added to the mean square in the norms.

    Returns:
        q, k, v, each (B, N, H, D) and contiguous; v is a copy.
    """
    xs = qkv.unbind(2)
    if runs_kernels(qkv):
        from fae_core.ops.triton import qk_norm_rope as kernels

        q, k, v = kernels.forward(xs, (q_weight, k_weight), pair(cos, sin), interleaved, eps)
        return q, k, v
    q, k = (
        norm_and_rotate(x, w, cos, sin, interleaved, eps) for x, w in zip(xs[:2], (q_weight, k_weight), strict=True)
    )
    return q, k, xs[2].clone(memory_format=torch.contiguous_format)


@qk_norm_rope.register_fake
def _(qkv, cos, sin, q_weight, k_weight, interleaved, eps) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*qkv.shape[:2], *qkv.shape[3:])
    q, k, v = (qkv.new_empty(shape, dtype=_dtype(qkv, w)) for w in (q_weight, k_weight, None))
    return q, k, v


@torch.library.custom_op("fae::qk_norm_rope_backward", mutates_args=())
def qk_norm_rope_backward(
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    qkv: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    interleaved: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `qk_norm_rope`; parameters that are not listed are those of `qk_norm_rope`.

    Args:
        dq: Gradient of q, (B, N, H, D).
        dk: Gradient of k, (B, N, H, D).
        dv: Gradient of v, (B, N, H, D).

    Returns:
        (dqkv, dq_weight, dk_weight): dqkv packed and contiguous; the gradient of an absent weight is empty.
    """
    dqkv = qkv.new_empty(qkv.shape)
    dys, weights = (dq, dk, dv), (q_weight, k_weight)
    if runs_kernels(qkv):
        from fae_core.ops.triton import qk_norm_rope as kernels

        found = kernels.backward(dys, qkv.unbind(2), weights, pair(cos, sin), interleaved, eps, dqkv.unbind(2))
        dqw, dkw = (qkv.new_empty(0) if d is None else d for d in found)
        return dqkv, dqw, dkw
    dweights = []
    for part, weight in enumerate(weights):
        dx, dw = norm_and_rotate_backward(dys[part], qkv[:, :, part], weight, cos, sin, interleaved, eps)
        dqkv[:, :, part] = dx
        dweights.append(dw)
    dqkv[:, :, 2] = dv
    return dqkv, *dweights


@qk_norm_rope_backward.register_fake
def _(dq, dk, dv, qkv, cos, sin, q_weight, k_weight, interleaved, eps) -> tuple[Tensor, Tensor, Tensor]:
    dqw, dkw = (qkv.new_empty(0) if w is None else w.new_empty(w.shape) for w in (q_weight, k_weight))
    return qkv.new_empty(qkv.shape), dqw, dkw


def _setup(ctx, inputs, output) -> None:
    *tensors, ctx.interleaved, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor | None, ...]:
    qkv, cos, sin, q_weight, k_weight = ctx.saved_tensors
    dqkv, dqw, dkw = qk_norm_rope_backward(dq, dk, dv, qkv, cos, sin, q_weight, k_weight, ctx.interleaved, ctx.eps)
    return (
        dqkv,
        None,
        None,
        None if q_weight is None else dqw,
        None if k_weight is None else dkw,
        None,
        None,
    )


qk_norm_rope.register_autograd(_gradient, setup_context=_setup)
once_differentiable(qk_norm_rope_backward)


@torch.library.custom_op("fae::apply_rope", mutates_args=())
def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, inverse: bool) -> Tensor:
    """Rotate heads; see `fae_core.ops.apply_rope`.

    Args:
        x: (B, N, H, D).
        cos: Cosines of the angles in fp32, (N, D/2) or (B, 1, N, D/2).
        sin: Sines of the angles.
        interleaved: Pairs are neighbours; otherwise they are D/2 apart.
        inverse: Rotate by the opposite angles.

    Returns:
        (B, N, H, D), contiguous.
    """
    if runs_kernels(x):
        from fae_core.ops.triton import qk_norm_rope as kernels

        return kernels.forward([x], (None, None), (cos, sin), interleaved, 0.0, inverse)[0]
    return norm_and_rotate(x, None, cos, -sin if inverse else sin, interleaved, 0.0)


@apply_rope.register_fake
def _(x, cos, sin, interleaved, inverse) -> Tensor:
    return x.new_empty(x.shape)


def _setup_rope(ctx, inputs, output) -> None:
    _, cos, sin, ctx.interleaved, ctx.inverse = inputs
    ctx.save_for_backward(cos, sin)


def _gradient_rope(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
    return apply_rope(dy, *ctx.saved_tensors, ctx.interleaved, not ctx.inverse), None, None, None, None


apply_rope.register_autograd(_gradient_rope, setup_context=_setup_rope)


def pair(cos: Tensor | None, sin: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """The tables as the kernels take them: together, or None where there are none."""
    return None if cos is None or sin is None else (cos, sin)


def norm_and_rotate(
    x: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, interleaved: bool, eps: float
) -> Tensor:
    """What the kernel computes for one of q and k, in plain torch.

    Args:
        x: Queries or keys, (B, N, H, D).
        weight: Weight of the norm, (D,), or None for no norm.
        cos: Cosines of the angles, or None for no rotation.
        sin: Sines of the angles, given where cos is.
        interleaved: Pairs are neighbours; otherwise they are D/2 apart.
        eps: Added to the mean square in the norm.

    Returns:
        (B, N, H, D), contiguous.
    """
    wide = x.float()
    if weight is not None:
        wide = reference.rms_norm(wide, weight.float(), eps)
    if cos is not None and sin is not None:
        wide = reference.apply_rope(wide.transpose(1, 2), cos, sin, _layout(interleaved)).transpose(1, 2)
    return wide.to(_dtype(x, weight)).clone(memory_format=torch.contiguous_format)


def norm_and_rotate_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, interleaved: bool, eps: float
) -> tuple[Tensor, Tensor]:
    """Gradients of `norm_and_rotate`; parameters that are not listed are those of `norm_and_rotate`.

    Args:
        dy: Gradient of its result, (B, N, H, D).

    Returns:
        (dx, dweight); dweight is empty where there is no weight.
    """
    wide = dy.float()
    if cos is not None and sin is not None:
        wide = reference.apply_rope(wide.transpose(1, 2), cos, -sin, _layout(interleaved)).transpose(1, 2)
    if weight is None:
        return wide.to(x.dtype), x.new_empty(0)
    rstd = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
    unit = x.float() * rstd
    dweight = (wide * unit).flatten(0, -2).sum(0)
    wide = wide * weight.float()
    dx = (wide - unit * (wide * unit).mean(-1, keepdim=True)) * rstd
    return dx.to(x.dtype), dweight.to(weight.dtype)


def _layout(interleaved: bool) -> str:
    return "interleaved" if interleaved else "half"


def _dtype(x: Tensor, weight: Tensor | None) -> torch.dtype:
    return x.dtype if weight is None else torch.promote_types(x.dtype, weight.dtype)
