"""Rotary position embedding, alone and with the query and key norms in front of it.

Tables are (N, D/2) or (B, 1, N, D/2) cosines and sines of the angles; `fae_core.layers.rope` makes them. Layouts name which
entries form a pair: "interleaved" (x0, x1), (x2, x3), ...; "half" (x0, x_{D/2}), (x1, x_{D/2+1}), ...
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.ops import reference
from fae_core.ops.dispatch import requested_backend

Layout = Literal["interleaved", "half"]


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, layout: Layout = "interleaved") -> Tensor:
    """Rotate x's pairs by the tables' angles. x: (B, H, N, D); returns the same shape and dtype."""
    if layout not in ("interleaved", "half"):
        raise FAEError(f"rope layout is 'interleaved' or 'half', not {layout!r}")
    if cos.shape[-2:] != (x.shape[-2], x.shape[-1] // 2) or sin.shape != cos.shape:
        raise FAEError(f"rope tables of shape {tuple(cos.shape)} do not fit x of shape {tuple(x.shape)}")
    eager_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
    if layout == "interleaved" and eager_cpu and requested_backend(None) != "reference":
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Split packed qkv (B, N, 3, H, D), RMS-normalise q and k where weights are given, rotate them where tables are.

    Returns q, k, v as (B, H, N, D).
    """
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    if q_weight is not None:
        q = reference.rms_norm(q, q_weight, eps)
    if k_weight is not None:
        k = reference.rms_norm(k, k_weight, eps)
    if cos is not None:
        q, k = apply_rope(q, cos, sin, layout), apply_rope(k, cos, sin, layout)
    return q, k, v
