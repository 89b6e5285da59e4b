"""Rotary position embedding, alone or after the norms of queries and keys.

Tables are (N, D/2) or (B, 1, N, D/2) cosines and sines of the angles; `fae_core.layers.rope` makes them. A layout says
which entries form a pair: "interleaved" (x0, x1), (x2, x3), ...; "half" (x0, x_{D/2}), (x1, x_{D/2+1}), ...
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.ops import operators, reference
from fae_core.ops.choosing import Explanation, choose_pointwise, split_packed
from fae_core.ops.dispatch import nothing_to_choose, requested_backend, through
from fae_core.ops.projections import with_bias_gradient
from fae_core.ops.triton import contract

Layout = Literal["interleaved", "half"]


def apply_rope(
    x: Tensor, cos: Tensor, sin: Tensor, layout: Layout = "interleaved", *, backend: str | None = None
) -> Tensor:
    """Rotate x's pairs by the tables' angles.

    Args:
        x: Queries or keys, (B, H, N, D).
        cos: Cosines of the angles, (N, D/2) or (B, 1, N, D/2).
        sin: Sines of the angles, of the same shape.
        layout: Which entries form a pair.
        backend: "triton" or "reference"; by default see `fae_core.ops.dispatch`.

    Returns:
        (B, H, N, D), in x's dtype.

    Raises:
        FAEError: Tables or layout that do not fit, or a named backend that cannot run the call.
    """
    check_tables(x.shape[-1], x.shape[-2], cos, sin, layout)
    if not nothing_to_choose(x, backend):
        inputs = (x, *wide_tables(cos, sin), layout == "interleaved", False)
        found = through(operators.APPLY_ROPE, inputs, lambda: _choose(x, cos, sin, backend), backend)
        if found is not None:
            return found
        if requested_backend(backend) == "reference":
            return reference.apply_rope(x, cos, sin, layout)
    return _rotate(x, cos, sin, layout)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, layout: Layout) -> Tensor:
    if layout == "interleaved" and x.device.type == "cpu" and not torch.compiler.is_compiling():
        return _rotate_as_complex(x, cos, sin)
    return reference.apply_rope(x, cos, sin, layout)


def _rotate_as_complex(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Interleaved pairs times e^(i angle): one pass over memory instead of six (torch.compile fuses the reference)."""
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
    bias: Tensor | None = None,
    layout: Layout = "interleaved",
    eps: float = 1e-6,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Split packed qkv, RMS-normalise q and k where weights are given, and rotate them where tables are given.

    Args:
        qkv: Packed queries, keys and values, (B, N, 3, H, D).
        cos: Cosines of the angles, (N, D/2) or (B, 1, N, D/2); None: no rotation.
        sin: Sines of the angles; given where cos is.
        q_weight: Weight of the queries' norm, (D,); None: no norm.
        k_weight: Weight of the keys' norm, (D,); None: no norm.
        bias: What the projection has added to qkv, (3 * H * D,), where its gradient is to be made here (see
            `fae_core.ops.projections`): it is not added again.
        layout: Which entries of a head form a pair.
        eps: Added to the mean square in the norms.
        backend: "triton" or "reference"; by default see `fae_core.ops.dispatch`.

    Returns:
        q, k, v, each (B, H, N, D).

    Raises:
        FAEError: Shapes, tables or layout that do not fit, or a named backend that cannot run the call.
    """
    check_tables(qkv.shape[-1], qkv.shape[1], cos, sin, layout)
    plain = nothing_to_choose(qkv, backend)
    if not plain:

        def choose() -> Explanation:
            obstacle = contract.heads(qkv, (cos, sin), q_weight, k_weight)
            return choose_pointwise("qk_norm_rope", qkv, obstacle, backend)

        options = (q_weight, k_weight, bias, layout == "interleaved", float(eps))
        found = through(operators.QK_NORM_ROPE, (qkv, *wide_tables(cos, sin), *options), choose, backend)
        if found is not None:
            return found
    if bias is not None:
        qkv = with_bias_gradient(qkv.flatten(2), bias).view(qkv.shape)
    q, k, v = split_packed(qkv)
    if cos is None or sin is None:
        return _normed(q, q_weight, eps), _normed(k, k_weight, eps), v
    if plain and q_weight is None and k_weight is None and cos.ndim == 2:
        # Queries and keys are adjacent in memory: one rotation serves both.
        both = qkv[:, :, :2]
        q, k = _rotate(both, cos[:, None, None], sin[:, None, None], layout).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v
    q, k = _normed(q, q_weight, eps), _normed(k, k_weight, eps)
    if plain:
        return _rotate(q, cos, sin, layout), _rotate(k, cos, sin, layout), v
    q, k = (apply_rope(x, cos, sin, layout, backend=backend) for x in (q, k))
    return q, k, v


def _normed(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return x if weight is None else reference.rms_norm(x, weight, eps)


def check_tables(head_dim: int, tokens: int, cos: Tensor | None, sin: Tensor | None, layout: str) -> None:
    """Raise FAEError where the tables or the layout do not fit.

    Args:
        head_dim: D, the head dimension.
        tokens: N, the number of tokens.
        cos: Cosines of the angles, (..., N, D/2), or None.
        sin: Sines of the angles; given where cos is.
        layout: Which entries of a head form a pair.

    Raises:
        FAEError: An unknown layout, one table without the other, or tables of another shape.
    """
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


def _choose(x: Tensor, cos: Tensor, sin: Tensor, backend: str | None) -> Explanation:
    axes = f"the kernel takes (B, H, N, D), not {x.ndim} axes" if x.ndim != 4 else None
    return choose_pointwise("apply_rope", x, axes or contract.heads(x, (cos, sin)), backend)


def wide_tables(cos: Tensor | None, sin: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The tables in fp32, as the kernels read them; (None, None) where there are none."""
    return (None, None) if cos is None or sin is None else (cos.float(), sin.float())
