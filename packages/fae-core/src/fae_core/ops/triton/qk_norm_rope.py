"""RMS norm and rotation of attention heads, up to three tensors (q, k, v) in one launch; v is copied.

Tensors are (B, N, H, D) with any strides but the last, which is 1. A block takes some tokens and loops over its heads,
so that the tables are read once per token. Pairs are held as (first, second), so both layouts share the arithmetic,
which is fp32.
"""

# Triton compiles the functions under @triton.jit by its own rules: arguments become constants, and an `if` on one is
# decided when compiling.
# pyright: reportPossiblyUnboundVariable=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fae_core.ops.triton import configs
from fae_core.ops.triton.launch import Argument, alignment, launch


@triton.jit
def load_pairs(ptr, start, valid, D: tl.constexpr, PAIRS: tl.constexpr, INTERLEAVED: tl.constexpr):
    """First and second entries of each row's pairs, (rows, PAIRS) in fp32; zeros beyond D / 2 and in invalid rows."""
    if INTERLEAVED:
        column = tl.arange(0, 2 * PAIRS)[None, :]
        x = tl.load(ptr + start[:, None] + column, mask=valid[:, None] & (column < D), other=0.0).to(tl.float32)
        first, second = tl.split(tl.reshape(x, (start.shape[0], PAIRS, 2)))
    else:
        column = tl.arange(0, PAIRS)[None, :]
        inside = valid[:, None] & (column < D // 2)
        first = tl.load(ptr + start[:, None] + column, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(ptr + start[:, None] + D // 2 + column, mask=inside, other=0.0).to(tl.float32)
    return first, second


@triton.jit
def store_pairs(ptr, start, valid, first, second, D: tl.constexpr, PAIRS: tl.constexpr, INTERLEAVED: tl.constexpr):
    """Write the entries of valid rows' pairs."""
    if INTERLEAVED:
        column = tl.arange(0, 2 * PAIRS)[None, :]
        x = tl.reshape(tl.join(first, second), (start.shape[0], 2 * PAIRS))
        tl.store(ptr + start[:, None] + column, x, mask=valid[:, None] & (column < D))
    else:
        column = tl.arange(0, PAIRS)[None, :]
        inside = valid[:, None] & (column < D // 2)
        tl.store(ptr + start[:, None] + column, first, mask=inside)
        tl.store(ptr + start[:, None] + D // 2 + column, second, mask=inside)


@triton.jit
def _tables(cos_ptr, sin_ptr, token, valid, D: tl.constexpr, PAIRS: tl.constexpr):
    column = tl.arange(0, PAIRS)[None, :]
    inside = valid[:, None] & (column < D // 2)
    place = token[:, None] * (D // 2) + column
    return tl.load(cos_ptr + place, mask=inside, other=0.0), tl.load(sin_ptr + place, mask=inside, other=0.0)


@triton.jit
def _heads_forward(
    x_ptr, weight_ptr, out_ptr, cos, sin, x_row, out_row, valid, x_head, out_head, eps,
    NORM: tl.constexpr, ROTATE: tl.constexpr, D: tl.constexpr, PAIRS: tl.constexpr, HEADS: tl.constexpr,
    INTERLEAVED: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    if NORM:
        w_first, w_second = load_pairs(
            weight_ptr, tl.zeros((1,), tl.int32), tl.full((1,), 1, tl.int1), D, PAIRS, INTERLEAVED
        )
    for i in range(HEADS):
        head = tl.program_id(1) * HEADS + i
        x_start = tl.multiple_of(x_row + head * x_head, ALIGN)
        first, second = load_pairs(x_ptr, x_start, valid, D, PAIRS, INTERLEAVED)
        if NORM:
            rstd = tl.rsqrt(tl.sum(first * first + second * second, axis=1) / D + eps)[:, None]
            first, second = first * rstd * w_first, second * rstd * w_second
        if ROTATE:
            first, second = first * cos - second * sin, first * sin + second * cos
        out_start = tl.multiple_of(out_row + head * out_head, ALIGN)
        store_pairs(out_ptr, out_start, valid, first, second, D, PAIRS, INTERLEAVED)


@triton.jit
def _forward(
    q_ptr, k_ptr, v_ptr, q_out_ptr, k_out_ptr, v_out_ptr, q_weight_ptr, k_weight_ptr, cos_ptr, sin_ptr,
    rows, tokens, x_sample, x_token, x_head, out_sample, out_token, out_head, table_sample, eps,
    PARTS: tl.constexpr, NORM_Q: tl.constexpr, NORM_K: tl.constexpr, ROTATE: tl.constexpr, INVERSE: tl.constexpr,
    D: tl.constexpr, PAIRS: tl.constexpr, ROWS: tl.constexpr, HEADS: tl.constexpr,
    INTERLEAVED: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = row < rows
    sample, token = (row // tokens).to(tl.int64), (row % tokens).to(tl.int64)
    x_row, out_row = sample * x_sample + token * x_token, sample * out_sample + token * out_token
    cos, sin = 1.0, 0.0
    if ROTATE:
        cos, sin = _tables(cos_ptr, sin_ptr, sample * table_sample + token, valid, D, PAIRS)
        if INVERSE:
            sin = -sin
    part = tl.program_id(2)
    if part == 0:
        _heads_forward(q_ptr, q_weight_ptr, q_out_ptr, cos, sin, x_row, out_row, valid, x_head, out_head, eps,
                       NORM_Q, ROTATE, D, PAIRS, HEADS, INTERLEAVED, ALIGN)  # fmt: skip
    if PARTS > 1:  # noqa: SIM102 (decided when compiling, the inner one when running)
        if part == 1:
            _heads_forward(k_ptr, k_weight_ptr, k_out_ptr, cos, sin, x_row, out_row, valid, x_head, out_head, eps,
                           NORM_K, ROTATE, D, PAIRS, HEADS, INTERLEAVED, ALIGN)  # fmt: skip
    if PARTS > 2:  # noqa: SIM102 (decided when compiling, the inner one when running)
        if part == 2:
            _heads_forward(v_ptr, None, v_out_ptr, cos, sin, x_row, out_row, valid, x_head, out_head, eps,
                           False, False, D, PAIRS, HEADS, INTERLEAVED, ALIGN)  # fmt: skip


@triton.jit
def _heads_backward(
    dy_ptr, x_ptr, weight_ptr, dx_ptr, partial_ptr, cos, sin, dy_row, x_row, dx_row, valid, dy_head, x_head, dx_head,
    eps, NORM: tl.constexpr, ROTATE: tl.constexpr, D: tl.constexpr, PAIRS: tl.constexpr, ROWS: tl.constexpr,
    HEADS: tl.constexpr, INTERLEAVED: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    if NORM:
        w_first, w_second = load_pairs(
            weight_ptr, tl.zeros((1,), tl.int32), tl.full((1,), 1, tl.int1), D, PAIRS, INTERLEAVED
        )
        total_first, total_second = tl.zeros((ROWS, PAIRS), tl.float32), tl.zeros((ROWS, PAIRS), tl.float32)
    for i in range(HEADS):
        head = tl.program_id(1) * HEADS + i
        dy_start = tl.multiple_of(dy_row + head * dy_head, ALIGN)
        first, second = load_pairs(dy_ptr, dy_start, valid, D, PAIRS, INTERLEAVED)
        if ROTATE:
            first, second = first * cos + second * sin, second * cos - first * sin
        if NORM:
            x_start = tl.multiple_of(x_row + head * x_head, ALIGN)
            x_first, x_second = load_pairs(x_ptr, x_start, valid, D, PAIRS, INTERLEAVED)
            rstd = tl.rsqrt(tl.sum(x_first * x_first + x_second * x_second, axis=1) / D + eps)[:, None]
            x_first, x_second = x_first * rstd, x_second * rstd
            total_first += first * x_first
            total_second += second * x_second
            first, second = first * w_first, second * w_second
            along = tl.sum(first * x_first + second * x_second, axis=1)[:, None] / D
            first, second = (first - x_first * along) * rstd, (second - x_second * along) * rstd
        dx_start = tl.multiple_of(dx_row + head * dx_head, ALIGN)
        store_pairs(dx_ptr, dx_start, valid, first, second, D, PAIRS, INTERLEAVED)
    if NORM:
        block = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64)
        start = tl.full((1,), 0, tl.int64) + block * D
        store_pairs(partial_ptr, start, tl.full((1,), 1, tl.int1), tl.sum(total_first, axis=0)[None, :],
                    tl.sum(total_second, axis=0)[None, :], D, PAIRS, INTERLEAVED)  # fmt: skip


@triton.jit
def _backward(
    dq_ptr, dk_ptr, dv_ptr, q_ptr, k_ptr, q_weight_ptr, k_weight_ptr, cos_ptr, sin_ptr,
    dq_out_ptr, dk_out_ptr, dv_out_ptr, q_partial_ptr, k_partial_ptr, rows, tokens,
    dy_sample, dy_token, dy_head, x_sample, x_token, x_head, dx_sample, dx_token, dx_head, table_sample, eps,
    PARTS: tl.constexpr, NORM_Q: tl.constexpr, NORM_K: tl.constexpr, ROTATE: tl.constexpr,
    D: tl.constexpr, PAIRS: tl.constexpr, ROWS: tl.constexpr, HEADS: tl.constexpr,
    INTERLEAVED: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = row < rows
    sample, token = (row // tokens).to(tl.int64), (row % tokens).to(tl.int64)
    dy_row, x_row = sample * dy_sample + token * dy_token, sample * x_sample + token * x_token
    dx_row = sample * dx_sample + token * dx_token
    cos, sin = 1.0, 0.0
    if ROTATE:
        cos, sin = _tables(cos_ptr, sin_ptr, sample * table_sample + token, valid, D, PAIRS)
    part = tl.program_id(2)
    if part == 0:
        _heads_backward(dq_ptr, q_ptr, q_weight_ptr, dq_out_ptr, q_partial_ptr, cos, sin, dy_row, x_row, dx_row, valid,
                        dy_head, x_head, dx_head, eps, NORM_Q, ROTATE, D, PAIRS, ROWS, HEADS, INTERLEAVED,
                        ALIGN)  # fmt: skip
    if PARTS > 1:  # noqa: SIM102 (decided when compiling, the inner one when running)
        if part == 1:
            _heads_backward(dk_ptr, k_ptr, k_weight_ptr, dk_out_ptr, k_partial_ptr, cos, sin, dy_row, x_row, dx_row,
                            valid, dy_head, x_head, dx_head, eps, NORM_K, ROTATE, D, PAIRS, ROWS, HEADS, INTERLEAVED,
                            ALIGN)  # fmt: skip
    if PARTS > 2:  # noqa: SIM102 (decided when compiling, the inner one when running)
        if part == 2:
            _heads_backward(dv_ptr, None, None, dv_out_ptr, None, cos, sin, dy_row, x_row, dx_row, valid,
                            dy_head, x_head, dx_head, eps, False, False, D, PAIRS, ROWS, HEADS, INTERLEAVED,
                            ALIGN)  # fmt: skip


Tables = tuple[Tensor, Tensor] | None
Weights = tuple[Tensor | None, Tensor | None]


def forward(
    xs: Sequence[Tensor],
    weights: Weights,
    tables: Tables,
    interleaved: bool,
    eps: float,
    inverse: bool = False,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Norm and rotate up to three tensors; the third, v, is copied.

    Args:
        xs: [q], [q, k] or [q, k, v], each (B, N, H, D).
        weights: Weights of the norms of q and k, (D,) or None for no norm.
        tables: Cosines and sines, (N, D/2) or (B, 1, N, D/2), or None for no rotation.
        interleaved: Pairs are neighbours; otherwise they are D/2 apart.
        eps: Added to the mean square in the norms.
        inverse: Rotate by the opposite angles.
        dtype: Dtype of the results; None: that of x * weight.

    Returns:
        The results, contiguous.
    """
    outs = [
        torch.empty(x.shape, dtype=dtype or _dtype(x, w), device=x.device)
        for x, w in zip(xs, (*weights, None), strict=False)
    ]
    if any(x.stride() != xs[0].stride() for x in xs) or xs[0].stride(-1) != 1:
        xs = [x.contiguous() for x in xs]
    arguments = {
        **_named("{}_ptr", xs),
        **_named("{}_out_ptr", outs),
        **_shared(xs[0], weights, tables, eps),
        **_strides("x", xs[0]),
        **_strides("out", outs[0]),
    }
    config = configs.heads(xs[0].shape[-1])
    constants = {**_constants(xs, weights, tables, interleaved, config, xs[0], outs[0]), "INVERSE": inverse}
    launch(_forward, _grid(xs, config), arguments, constants, config)
    return outs


def backward(
    dys: Sequence[Tensor],
    xs: Sequence[Tensor],
    weights: Weights,
    tables: Tables,
    interleaved: bool,
    eps: float,
    dxs: Sequence[Tensor],
) -> tuple[Tensor | None, Tensor | None]:
    """Write the gradients of `forward`'s xs to dxs; returns those of the weights.

    All of dys, and all of xs, have the same strides or are copied.

    Args:
        dys: Gradients of the results, each (B, N, H, D).
        xs: As for `forward`.
        weights: As for `forward`.
        tables: As for `forward`.
        interleaved: As for `forward`.
        eps: As for `forward`.
        dxs: Where to write, each (B, N, H, D), with any strides that all of them share.

    Returns:
        The gradients of the weights of q and k; None where there is no weight.
    """
    if any(d.stride() != dys[0].stride() for d in dys) or dys[0].stride(-1) != 1:
        dys = [d.contiguous() for d in dys]
    if any(x.stride() != xs[0].stride() for x in xs) or xs[0].stride(-1) != 1:
        xs = [x.contiguous() for x in xs]
    config = configs.heads(xs[0].shape[-1])
    grid = _grid(xs, config)
    blocks, width = grid[0] * grid[1], xs[0].shape[-1]
    partials = [
        torch.empty(blocks, width, dtype=torch.float32, device=w.device) if w is not None and part < len(xs) else None
        for part, w in enumerate(weights)
    ]
    named_x = _named("{}_ptr", xs)
    del named_x["v_ptr"]
    arguments = {
        **_named("d{}_ptr", dys),
        **named_x,
        **_named("d{}_out_ptr", dxs),
        "q_partial_ptr": partials[0],
        "k_partial_ptr": partials[1],
        **_shared(xs[0], weights, tables, eps),
        **_strides("dy", dys[0]),
        **_strides("x", xs[0]),
        **_strides("dx", dxs[0]),
    }
    constants = _constants(xs, weights, tables, interleaved, config, dys[0], xs[0], dxs[0])
    launch(_backward, grid, arguments, constants, config)
    q, k = (None if p is None or w is None else p.sum(0).to(w.dtype) for p, w in zip(partials, weights, strict=True))
    return q, k


def _dtype(x: Tensor, weight: Tensor | None) -> torch.dtype:
    return x.dtype if weight is None else torch.promote_types(x.dtype, weight.dtype)


def _heads_per_block(heads: int) -> int:
    return next(n for n in (8, 6, 4, 3, 2, 1) if heads % n == 0)


def _grid(xs: Sequence[Tensor], config: configs.Config) -> tuple[int, int, int]:
    batch, tokens, heads, _ = xs[0].shape
    groups = heads // _heads_per_block(heads) if heads else 0
    return triton.cdiv(batch * tokens, config.rows), groups, len(xs)


def _named(pattern: str, tensors: Sequence[Tensor]) -> dict[str, Tensor | None]:
    return {pattern.format(name): t for name, t in zip("qkv", (*tensors, None, None), strict=False)}


def _strides(name: str, x: Tensor) -> dict[str, int]:
    return {f"{name}_sample": x.stride(0), f"{name}_token": x.stride(1), f"{name}_head": x.stride(2)}


def _shared(x: Tensor, weights: Weights, tables: Tables, eps: float) -> dict[str, Argument]:
    batch, tokens = x.shape[:2]
    cos, sin = (t.contiguous() for t in tables) if tables is not None else (None, None)
    return {
        "q_weight_ptr": weights[0],
        "k_weight_ptr": weights[1],
        "cos_ptr": cos,
        "sin_ptr": sin,
        "rows": batch * tokens,
        "tokens": tokens,
        # Rows of the table from one sample to the next; 0 where the samples share it.
        "table_sample": tokens if cos is not None and cos.ndim == 4 and cos.shape[0] > 1 else 0,
        "eps": eps,
    }


def _constants(
    xs: Sequence[Tensor], weights: Weights, tables: Tables, interleaved: bool, config: configs.Config, *strided: Tensor
) -> dict[str, int | bool]:
    width, heads = xs[0].shape[-1], xs[0].shape[2]
    return {
        "PARTS": len(xs),
        "NORM_Q": weights[0] is not None,
        "NORM_K": weights[1] is not None,
        "ROTATE": tables is not None,
        "D": width,
        "PAIRS": configs.power_of_two(width // 2),
        "ROWS": config.rows,
        "HEADS": _heads_per_block(heads) if heads else 1,
        "INTERLEAVED": interleaved,
        "ALIGN": alignment(*strided),
    }
