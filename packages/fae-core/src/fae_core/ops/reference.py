"""The specification of every op in plain torch: short, slow, and what every other backend is compared with."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) in fp32, cast back to x's dtype, then times weight.

    Args:
        x: (..., D).
        weight: (D,), or None for no weight.
        eps: Added to the mean square.
    """
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    normed = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    return normed if weight is None else normed * weight


def layer_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) in fp32, cast back to x's dtype, then times weight.

    Args:
        x: (..., D).
        weight: (D,), or None for no weight.
        eps: Added to the variance.
    """
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    normed = torch.nn.functional.layer_norm(wide, wide.shape[-1:], eps=eps).to(x.dtype)
    return normed if weight is None else normed * weight


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, layout: str) -> Tensor:
    """Rotate pairs of x's last axis by the tables' angles, in fp32.

    Args:
        x: (..., N, D).
        cos: Cosines of the angles, (..., N, D/2).
        sin: Sines of the angles, (..., N, D/2).
        layout: "interleaved" or "half", see `fae_core.ops.rotary`.
    """
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if layout == "interleaved":
        first, second = wide[..., 0::2], wide[..., 1::2]
    else:
        first, second = wide.chunk(2, dim=-1)
    rotated = (first * cos - second * sin, first * sin + second * cos)
    out = torch.stack(rotated, dim=-1).flatten(-2) if layout == "interleaved" else torch.cat(rotated, dim=-1)
    return out.to(x.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    """softmax(q k^T * scale + mask) v with the softmax in fp32.

    Args:
        q: Queries, (B, H, N, D).
        k: Keys, (B, H, M, D).
        v: Values, (B, H, M, D).
        mask: Boolean (True = attend) or added to the scores; broadcastable to (B, H, N, M).
        causal: Row i sees columns 0..i.
        scale: Factor of the scores; None: 1/sqrt(D).
    """
    scores = (q.float() @ k.float().transpose(-1, -2)) * (scale if scale is not None else 1 / math.sqrt(q.shape[-1]))
    if causal:
        keep = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~keep, float("-inf"))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return (scores.softmax(-1) @ v.float()).to(q.dtype)
