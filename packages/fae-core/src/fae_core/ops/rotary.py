"""Rotary position embedding, alone and with the query and key norms in front of it.

Tables are (N, D/2) or (B, 1, N, D/2) cosines and sines of the angles; `fae_core.layers.rope` makes them. Layouts name which
entries form a pair: "interleaved" (x0, x1), (x2, x3), ...; "half" (x0, x_{D/2}), (x1, x_{D/2+1}), ...
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.ops import operators, reference
from fae_core.ops.dispatch import choose_pointwise, nothing_to_choose, requested_backend, split_packed
from fae_core.ops.triton import contract

Layout = Literal["interleaved", "half"]


def apply_rope(
    x: Tensor, cos: Tensor, sin: Tensor, layout: Layout = "interleaved", *, backend: str | None = None
) -> Tensor:
    """Rotate x's pairs by the tables' angles. x: (B, H, N, D); returns the same shape and dtype.

    backend: "triton" or "reference"; by default see `fae_core.ops.dispatch`.
    """
    check_tables(x.shape[-1], x.shape[-2], cos, sin, layout)
    if not nothing_to_choose(x, backend):
        chosen = choose_pointwise("apply_rope", x, _obstacle(x, cos, sin), backend)
        if chosen.backend == "triton":
            rotated = operators.apply_rope(x.transpose(1, 2), *wide_tables(cos, sin), layout == "interleaved", False)
            return rotated.transpose(1, 2)
        if requested_backend(backend) == "reference":
            return reference.apply_rope(x, cos, sin, layout)
    return _rotate(x, cos, sin, layout)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> Tensor:
    if layout == "interleaved" and x.device.type == "cpu" and not torch.compiler.is_compiling():
        return _rotate_as_complex(x, cos, sin)
    return reference.apply_rope(x, cos, sin, layout)


def _rotate_as_complex(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Interleaved pairs times e^(i angle): one pass over memory instead of six. torch.compile fuses the reference itself."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    turn = torch.complex(cos.to(wide.dtype), sin.to(wide.dtype))
    *strides, last = wide.stride()
    if last != 1 or wide.storage_offset() % 2 or any(stride % 2 for stride in strides):
        wide = wide.clone(memory_format=torch.contiguous_format)
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def qk_norm_rope(
    qkv: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    *,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    layout: Layout = "interleaved",
    eps: float = 1e-6,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Split packed qkv (B, N, 3, H, D), RMS-normalise q and k where weights are given, rotate them where tables are.

    Returns q, k, v as (B, H, N, D). backend: "triton" or "reference"; by default see `fae_core.ops.dispatch`.
    """
    check_tables(qkv.shape[-1], qkv.shape[1], cos, sin, layout)
    plain = nothing_to_choose(qkv, backend)
    if not plain:
        obstacle = contract.heads(qkv, (cos, sin), q_weight, k_weight)
        if choose_pointwise("qk_norm_rope", qkv, obstacle, backend).backend == "triton":
            tables = (None, None) if cos is None else wide_tables(cos, sin)
            packed = operators.qk_norm_rope(qkv, *tables, q_weight, k_weight, layout == "interleaved", eps)
            q, k, v = (x.transpose(1, 2) for x in packed)
            return q, k, v
    q, k, v = split_packed(qkv)
    if cos is not None and plain and q_weight is None and k_weight is None and cos.ndim == 2:
        # Queries and keys lie side by side: one rotation for both.
        both = qkv[:, :, :2]
        q, k = _rotate(both, cos[:, None, None], sin[:, None, None], layout).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v
    if q_weight is not None:
        q = reference.rms_norm(q, q_weight, eps)
    if k_weight is not None:
        k = reference.rms_norm(k, k_weight, eps)
    if cos is not None and plain:
        q, k = _rotate(q, cos, sin, layout), _rotate(k, cos, sin, layout)
    elif cos is not None:
        q, k = (apply_rope(x, cos, sin, layout, backend=backend) for x in (q, k))
    return q, k, v


def check_tables(head_dim: int, tokens: int, cos: Tensor | None, sin: Tensor | None, layout: str) -> None:
    """Raise FAEError where the tables, of which there are two or none, or the layout's name do not fit."""
    if layout not in ("interleaved", "half"):
        raise FAEError(f"rope layout is 'interleaved' or 'half', not {layout!r}")
    if cos is None and sin is None:
        return
    if cos is None or sin is None:
        raise FAEError("rope tables come in pairs: cosines and sines")
    if cos.shape[-2:] != (tokens, head_dim // 2) or sin.shape != cos.shape:
        raise FAEError(
            f"rope tables of shape {tuple(cos.shape)} do not fit x: {tokens} tokens, head dimension {head_dim}"
        )


def _obstacle(x: Tensor, cos: Tensor, sin: Tensor) -> str | None:
    if x.ndim != 4:
        return f"the kernel takes (B, H, N, D), not {x.ndim} axes"
    return contract.heads(x, (cos, sin))


def wide_tables(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """In fp32, as the kernels read them."""
    return cos.float(), sin.float()
