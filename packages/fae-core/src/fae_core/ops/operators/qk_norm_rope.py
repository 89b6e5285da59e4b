"""Norm and rotation of packed qkv, and rotation of heads. Rotation tables carry no gradient."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from fae_core.ops import reference
from fae_core.ops.door import Description, Door, Saved
from fae_core.ops.triton.plans import Results


@functools.cache
def _kernels() -> Any:
    from fae_core.ops.triton import qk_norm_rope

    return qk_norm_rope


def _forward(qkv, cos, sin, q_weight, k_weight, bias, interleaved: bool, eps: float) -> Results:
    q, k, v = qkv.detach().unbind(2)
    q, k = _kernels().forward([q, k], (q_weight, k_weight), pair(cos, sin), interleaved, eps)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _forward_plain(qkv, cos, sin, q_weight, k_weight, bias, interleaved: bool, eps: float) -> Results:
    q, k, v = qkv.detach().unbind(2)
    q, k = (norm_and_rotate(x, w, cos, sin, interleaved, eps) for x, w in ((q, q_weight), (k, k_weight)))
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _save(inputs: tuple[Any, ...], results: Results) -> Saved:
    return inputs[:6], inputs[6:]


def _backward(dq, dk, dv, qkv, cos, sin, q_weight, k_weight, bias, interleaved: bool, eps: float) -> Results:
    weights = (q_weight, k_weight)
    dys, dtype = _given((dq, dk, dv), qkv, weights), None if bias is None else bias.dtype
    return _kernels().backward(dys, qkv.unbind(2)[:2], weights, pair(cos, sin), interleaved, eps, dtype)


def _backward_plain(dq, dk, dv, qkv, cos, sin, q_weight, k_weight, bias, interleaved: bool, eps: float) -> Results:
    dqkv, dweights = qkv.new_empty(qkv.shape), []
    dys = _given((dq, dk, dv), qkv, (q_weight, k_weight))
    for part, weight in enumerate((q_weight, k_weight)):
        dx, dw = norm_and_rotate_backward(dys[part], qkv[:, :, part], weight, cos, sin, interleaved, eps)
        dqkv[:, :, part] = dx
        dweights.append(dw)
    dqkv[:, :, 2] = dys[2]
    return dqkv, *dweights, None if bias is None else dqkv.float().sum((0, 1)).flatten().to(bias.dtype)


def _given(dys: tuple[Tensor | None, ...], qkv: Tensor, weights: tuple[Tensor | None, Tensor | None]) -> list[Tensor]:
    """The gradients of q, k, v, (B, N, H, D); zeros for results that nothing depends on."""
    shape = (*qkv.shape[:2], *qkv.shape[3:])
    return [
        qkv.new_zeros(shape, dtype=_dtype(qkv, w)) if d is None else d.transpose(1, 2)
        for d, w in zip(dys, (*weights, None), strict=True)
    ]


QK_NORM_ROPE = Door(
    Description(
        "qk_norm_rope",
        "(Tensor qkv, Tensor? cos, Tensor? sin, Tensor? q_weight, Tensor? k_weight, Tensor? bias, bool interleaved,"
        " float eps) -> (Tensor q, Tensor k, Tensor v)",
        results=3,
        differentiable=(0, 3, 4, 5),
        kernel=_forward,
        plain=_forward_plain,
        save=_save,
        gradient_schema="(Tensor? dq, Tensor? dk, Tensor? dv, Tensor qkv, Tensor? cos, Tensor? sin, Tensor? q_weight,"
        " Tensor? k_weight, Tensor? bias, bool interleaved, float eps)"
        " -> (Tensor dqkv, Tensor dq_weight, Tensor dk_weight, Tensor dbias)",
        gradient_kernel=_backward,
        gradient_plain=_backward_plain,
    )
)
"""Inputs (qkv, cos, sin, q_weight, k_weight, bias, interleaved, eps), as for `fae_core.ops.qk_norm_rope`.

Tables are in fp32. bias, (3 * H * D,), is what the projection has added to qkv: it is not added again, and its gradient
is the sum of qkv's. q, k and v are (B, H, N, D), q and k of memory in the order (B, N, H, D), v a view of qkv (of the
operator: a copy).
"""


def _rope(x, cos, sin, interleaved: bool, inverse: bool) -> Results:
    (y,) = _kernels().forward([x.transpose(1, 2)], (None, None), (cos, sin), interleaved, 0.0, inverse)
    return (y.transpose(1, 2),)


def _rope_plain(x, cos, sin, interleaved: bool, inverse: bool) -> Results:
    y = norm_and_rotate(x.transpose(1, 2), None, cos, -sin if inverse else sin, interleaved, 0.0)
    return (y.transpose(1, 2),)


def _save_rope(inputs: tuple[Any, ...], results: Results) -> Saved:
    _, cos, sin, interleaved, inverse = inputs
    return (cos, sin), (interleaved, not inverse)


APPLY_ROPE = Door(
    Description(
        "apply_rope",
        "(Tensor x, Tensor cos, Tensor sin, bool interleaved, bool inverse) -> Tensor",
        results=1,
        differentiable=(0,),
        kernel=_rope,
        plain=_rope_plain,
        save=_save_rope,
        gradient=lambda door, *inputs: (door(*inputs),),
    )
)
"""Inputs: x (B, H, N, D), tables in fp32, whether pairs are neighbours, whether to rotate by the opposite angles."""


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
) -> tuple[Tensor, Tensor | None]:
    """Gradients of `norm_and_rotate`; parameters that are not listed are those of `norm_and_rotate`.

    Args:
        dy: Gradient of its result, (B, N, H, D).

    Returns:
        (dx, dweight); dweight is None where there is no weight.
    """
    wide = dy.float()
    if cos is not None and sin is not None:
        wide = reference.apply_rope(wide.transpose(1, 2), cos, -sin, _layout(interleaved)).transpose(1, 2)
    if weight is None:
        return wide.to(x.dtype), None
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
