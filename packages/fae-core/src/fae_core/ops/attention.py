"""Scaled dot-product attention over (B, H, N, D), plain or with the rotation in front of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from fae_core.errors import FAEError
from fae_core.ops import reference
from fae_core.ops.dispatch import SDPA_KERNELS, choose_attention
from fae_core.ops.rotary import Layout, apply_rope


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """softmax(q k^T * scale + mask) v. q: (B, H, N, D); k, v: (B, H, M, D) or fewer heads that divide H (grouped queries).

    mask: boolean (True = attend) or additive, broadcastable to (B, H, N, M). scale: 1/sqrt(D) by default. causal: row i
    sees columns 0..i; excludes a mask. backend: see `fae_core.ops.BACKENDS`. Returns (B, H, N, D).
    """
    _check(q, k, v, mask, causal)
    if k.shape[1] != q.shape[1]:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    chosen = choose_attention(q, k, v, mask=mask, causal=causal, requested=backend).backend
    if chosen == "reference":
        return reference.attention(q, k, v, mask, causal, scale)
    if chosen == "xformers":
        return _xformers(q, k, v, mask, causal, scale)
    if chosen in SDPA_KERNELS:
        with sdpa_kernel(SDPA_KERNELS[chosen]):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)


def rope_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    layout: Layout = "interleaved",
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """`attention` on queries and keys rotated by the tables (see `fae_core.ops.rotary`)."""
    q, k = apply_rope(q, cos, sin, layout), apply_rope(k, cos, sin, layout)
    return attention(q, k, v, mask=mask, causal=causal, scale=scale, backend=backend)


def _check(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> None:
    if (
        q.ndim != 4
        or k.ndim != 4
        or k.shape[:3] != v.shape[:3]
        or q.shape[0] != k.shape[0]
        or q.shape[-1] != k.shape[-1]
    ):
        raise FAEError(
            f"attention: shapes {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)} do not fit (B, H, N, D)"
        )
    if q.shape[1] % k.shape[1]:
        raise FAEError(f"attention: {q.shape[1]} query heads are not a multiple of {k.shape[1]} key heads")
    if causal and mask is not None:
        raise FAEError("attention: pass causal or a mask, not both")


def _xformers(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    from xformers.ops import LowerTriangularMask, memory_efficient_attention

    bias = LowerTriangularMask() if causal else None
    if mask is not None:
        additive = (
            torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))
            if mask.dtype == torch.bool
            else mask
        )
        bias = additive.to(q.dtype).expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2]).contiguous()
    out = memory_efficient_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_bias=bias, scale=scale)
    return out.transpose(1, 2)
