"""Scaled dot-product attention over (B, H, N, D): plain, or after a norm and rotation of queries and keys."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fae_core.errors import FAEError
from fae_core.ops import measured, operators, reference
from fae_core.ops.choosing import Explanation, choose_attention, split_packed
from fae_core.ops.dispatch import SDPA_KERNELS, decide, nothing_to_choose, requested_backend
from fae_core.ops.rotary import Layout, apply_rope, check_tables, qk_norm_rope
from fae_core.ops.triton import capability, contract


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
    """softmax(q k^T * scale + mask) v.

    Args:
        q: Queries, (B, H, N, D).
        k: Keys, (B, H, M, D), or with fewer heads, whose number divides H (grouped queries).
        v: Values, of k's shape up to the last axis.
        mask: Boolean (True = attend) or added to the scores; broadcastable to (B, H, N, M).
        causal: Row i sees columns 0..i; excludes a mask.
        scale: Factor of the scores; 1/sqrt(D) by default.
        backend: One of `fae_core.ops.BACKENDS`; by default see `fae_core.ops.dispatch`.

    Returns:
        (B, H, N, D).

    Raises:
        FAEError: Shapes or options that do not fit, or a named backend that cannot run the call.
    """
    _check(q, k, v, mask, causal)
    if k.shape[1] != q.shape[1]:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    if nothing_to_choose(q, backend):
        return _attend("sdpa", q, k, v, mask, causal, scale)

    def choose() -> Explanation:
        return choose_attention("attention", q, k, v, mask=mask, causal=causal, requested=backend)

    chosen = decide("attention", (q, k, v, mask, causal), choose, backend)
    if chosen == "triton":
        return _fused(q, k, v, scale)
    if chosen == _first and requested_backend(backend) is None:
        chosen = "sdpa"  # torch tries it first by itself
    return _attend(chosen, q, k, v, mask, causal, scale)


# The backend that `order_backends` put first.
_first: str | None = None


def order_backends(device: torch.device | str) -> str | None:
    """Set once for the process which attention kernel torch tries first: on Hopper (compute capability 9) cuDNN's.

    On an H200 it took 0.73 and 0.77 of the time of flash attention, forward and backward, at head dimensions 72 and 64
    and 256 tokens (docs/benchmarks). Where it cannot take a call, torch goes on with the others. Choosing for each call
    would cost some ten microseconds. Nothing is set with FAE_OPS_TUNE=0 or where deterministic algorithms are asked
    for.

    Args:
        device: Where attention will run.

    Returns:
        The backend that comes first, or None where torch's order stays.
    """
    global _first
    device = torch.device(device)
    if _first is None and device.type == "cuda" and measured.is_off() is None:
        found = capability(device.index)
        order = getattr(torch._C, "_set_sdp_priority_order", None)
        if found is not None and found // 10 == 9 and order is not None:
            cudnn: Any = SDPBackend.CUDNN_ATTENTION
            order([int(cudnn), *(int(b) for b in torch._C._get_sdp_priority_order() if int(b) != int(cudnn))])
            _first = "sdpa-cudnn"
    return _first


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
    """`attention` on queries and keys that are rotated by the tables (see `fae_core.ops.rotary`).

    mask, causal, scale and backend are as for `attention`.

    Args:
        q: Queries, (B, H, N, D).
        k: Keys, (B, H, N, D), or with fewer heads, whose number divides H.
        v: Values, of k's shape up to the last axis.
        cos: Cosines of the angles, (N, D/2) or (B, 1, N, D/2).
        sin: Sines of the angles, of the same shape.
        layout: Which entries of a head form a pair.
        mask: Boolean (True = attend) or added to the scores; broadcastable to (B, H, N, N).
        causal: Row i sees columns 0..i; excludes a mask.
        scale: Factor of the scores; 1/sqrt(D) by default.
        backend: One of `fae_core.ops.BACKENDS`; by default see `fae_core.ops.dispatch`.

    Returns:
        (B, H, N, D).

    Raises:
        FAEError: Shapes or options that do not fit, or a named backend that cannot run the call.
    """
    _check(q, k, v, mask, causal)
    if not nothing_to_choose(q, backend):
        for x in (q, k):
            check_tables(x.shape[-1], x.shape[2], cos, sin, layout)

        def choose() -> Explanation:
            options = {"mask": mask, "causal": causal, "requested": backend}
            return choose_attention("rope_attention", q, k, v, **options, prologue=contract.heads(q, (cos, sin)))

        inputs = (q, k, v, cos, sin, layout, mask, causal)
        if decide("rope_attention", inputs, choose, backend) == "triton":
            q, k = (apply_rope(x, cos, sin, layout, backend="triton") for x in (q, k))
            return _fused(q, k, v, scale)
    q, k = (apply_rope(x, cos, sin, layout, backend=_prologue(backend)) for x in (q, k))
    return attention(q, k, v, mask=mask, causal=causal, scale=scale, backend=_core(backend))


def self_attention(
    qkv: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    *,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    bias: Tensor | None = None,
    layout: Layout = "interleaved",
    eps: float = 1e-6,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """`qk_norm_rope` and `attention` of packed queries, keys and values in one call.

    mask, causal, scale and backend are as for `attention`.

    Args:
        qkv: Packed queries, keys and values, (B, N, 3, H, D).
        cos: Cosines of the angles, (N, D/2) or (B, 1, N, D/2); None: no rotation.
        sin: Sines of the angles; given where cos is.
        q_weight: Weight of the queries' RMS norm, (D,); None: no norm.
        k_weight: Weight of the keys' RMS norm, (D,); None: no norm.
        bias: As for `qk_norm_rope`.
        layout: Which entries of a head form a pair.
        eps: Added to the mean square in the norms.
        mask: Boolean (True = attend) or added to the scores; broadcastable to (B, H, N, N).
        causal: Row i sees columns 0..i; excludes a mask.
        scale: Factor of the scores; 1/sqrt(D) by default.
        backend: One of `fae_core.ops.BACKENDS`; by default see `fae_core.ops.dispatch`.

    Returns:
        (B, H, N, D).

    Raises:
        FAEError: Shapes or options that do not fit, or a named backend that cannot run the call.
    """
    if not nothing_to_choose(qkv, backend):
        q, k, v = split_packed(qkv)
        _check(q, k, v, mask, causal)
        check_tables(qkv.shape[-1], qkv.shape[1], cos, sin, layout)

        def choose() -> Explanation:
            obstacle = contract.heads(qkv, (cos, sin), q_weight, k_weight)
            options = {"mask": mask, "causal": causal, "requested": backend}
            return choose_attention("self_attention", *split_packed(qkv), **options, prologue=obstacle)

        inputs = (qkv, cos, sin, q_weight, k_weight, layout, mask, causal)
        if decide("self_attention", inputs, choose, backend) == "triton":
            options = {"q_weight": q_weight, "k_weight": k_weight, "bias": bias, "layout": layout, "eps": eps}
            return _fused(*qk_norm_rope(qkv, cos, sin, **options, backend="triton"), scale)
    options = {"q_weight": q_weight, "k_weight": k_weight, "bias": bias, "layout": layout, "eps": eps}
    q, k, v = qk_norm_rope(qkv, cos, sin, **options, backend=_prologue(backend))
    return attention(q, k, v, mask=mask, causal=causal, scale=scale, backend=_core(backend))


def _prologue(backend: str | None) -> str | None:
    """The backend of the norm and rotation, given the one that was named for the attention after them."""
    return backend if backend in ("auto", "triton", "reference") else None


def _core(backend: str | None) -> str | None:
    """The backend of plain attention after `choose_attention` declined the fused kernel."""
    return "sdpa" if requested_backend(backend) == "triton" else backend


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    return operators.ATTENTION(q, k, v, q.shape[-1] ** -0.5 if scale is None else float(scale))


def _attend(
    backend: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None
) -> Tensor:
    if backend == "reference":
        return reference.attention(q, k, v, mask, causal, scale)
    if backend == "xformers":
        return _xformers(q, k, v, mask, causal, scale)
    if backend == "sdpa" and contract.forward_mode():
        backend = "sdpa-math"  # the only one with a forward-mode derivative
    if backend in SDPA_KERNELS:
        with sdpa_kernel(SDPA_KERNELS[backend]):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)


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
    if mask is not None and mask.dtype != torch.bool and not mask.is_floating_point():
        raise FAEError(f"attention: a mask is boolean, or floats to add to the scores, not {mask.dtype}")


def _xformers(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    import xformers.ops as xops  # pyright: ignore[reportMissingImports]  (an extra)

    bias = xops.LowerTriangularMask() if causal else None
    if mask is not None:
        additive = (
            torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))
            if mask.dtype == torch.bool
            else mask
        )
        bias = additive.to(q.dtype).expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2]).contiguous()
    out = xops.memory_efficient_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_bias=bias, scale=scale)
    return out.transpose(1, 2)
