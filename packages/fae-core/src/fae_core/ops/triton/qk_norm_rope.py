"""RMS norm and rotation of attention heads: of q and k, or of one tensor. v stays where it is.

Tensors are (B, N, H, D) with any strides but the last, which is 1. A block takes some tokens and a group of heads, all
of which are on their way from memory at once; a token's angles are read once for its heads. A head's pairs are held as
(first, second), in one or two tiles of powers of two, so both layouts share the arithmetic, which is fp32.

The backward kernel writes the packed gradient of q, k and v, and sums over its tokens, in fp32: of the gradient itself,
which is the gradient of the bias of the packed projection, and of what the norms' weights get. A second one adds the
blocks' sums up in a fixed order.
"""

# Triton compiles the functions under @triton.jit by its own rules: arguments become constants, and an `if` on one is
# decided when compiling.
# pyright: reportPossiblyUnboundVariable=false, reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fae_core.ops.triton import configs
from fae_core.ops.triton.launch import Argument, alignment, launch
from fae_core.ops.triton.tiles import places, wide


@triton.jit
def _steps(count, stride, ALIGN: tl.constexpr):
    """count * stride, multiples of ALIGN: said of each axis, because triton before 3.8 takes one left out as odd."""
    return tl.multiple_of(count * stride, [ALIGN, ALIGN, ALIGN])


@triton.jit
def _load_pairs(
    ptr, start, valid, D: tl.constexpr, FIRST: tl.constexpr, PAIRS: tl.constexpr, INTERLEAVED: tl.constexpr
):  # fmt: skip
    """First and second entries of PAIRS pairs of the heads that begin at `start`, (T, H, PAIRS) each, in fp32."""
    if INTERLEAVED:
        column = 2 * FIRST + tl.arange(0, 2 * PAIRS)[None, None, :]
        mask = valid if 2 * (FIRST + PAIRS) <= D else valid & (column < D)
        x = wide(tl.load(places(ptr, start, column, 2 * PAIRS), mask=mask, other=0.0))
        first, second = tl.split(tl.reshape(x, (x.shape[0], x.shape[1], PAIRS, 2)))
    else:
        column = FIRST + tl.arange(0, PAIRS)[None, None, :]
        mask = valid if 2 * (FIRST + PAIRS) <= D else valid & (column < D // 2)
        first = wide(tl.load(places(ptr, start, column, PAIRS), mask=mask, other=0.0))
        second = wide(tl.load(places(ptr, start + D // 2, column, PAIRS), mask=mask, other=0.0))
    return first, second


@triton.jit
def _store_pairs(
    ptr, start, valid, first, second, D: tl.constexpr, FIRST: tl.constexpr, PAIRS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):  # fmt: skip
    if INTERLEAVED:
        column = 2 * FIRST + tl.arange(0, 2 * PAIRS)[None, None, :]
        mask = valid if 2 * (FIRST + PAIRS) <= D else valid & (column < D)
        x = tl.reshape(tl.join(first, second), (first.shape[0], first.shape[1], 2 * PAIRS))
        tl.store(places(ptr, start, column, 2 * PAIRS), x, mask=mask)
    else:
        column = FIRST + tl.arange(0, PAIRS)[None, None, :]
        mask = valid if 2 * (FIRST + PAIRS) <= D else valid & (column < D // 2)
        tl.store(places(ptr, start, column, PAIRS), first, mask=mask)
        tl.store(places(ptr, start + D // 2, column, PAIRS), second, mask=mask)


@triton.jit
def _angles(cos_ptr, sin_ptr, row, valid, D: tl.constexpr, FIRST: tl.constexpr, PAIRS: tl.constexpr):
    column = FIRST + tl.arange(0, PAIRS)[None, None, :]
    mask = valid if 2 * (FIRST + PAIRS) <= D else valid & (column < D // 2)
    place = row * (D // 2) + column
    return tl.load(cos_ptr + place, mask=mask, other=0.0), tl.load(sin_ptr + place, mask=mask, other=0.0)


@triton.jit
def _weights(ptr, D: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, INTERLEAVED: tl.constexpr):
    """A norm's weight as the pairs of both tiles, (1, 1, PAIRS)."""
    here, nowhere = tl.full((1, 1, 1), 1, tl.int1), tl.zeros((1, 1, 1), tl.int32)
    a1, b1 = _load_pairs(ptr, nowhere, here, D, 0, P1, INTERLEAVED)
    a2, b2 = _load_pairs(ptr, nowhere, here, D, P1, P2, INTERLEAVED)
    return a1, b1, a2, b2


@triton.jit
def _head_sums(a, b):
    """Sums over the pairs of both tiles, (T, H, 1)."""
    return tl.sum(a, axis=2, keep_dims=True) + tl.sum(b, axis=2, keep_dims=True)


@triton.jit
def _forward(
    q_ptr, k_ptr, q_out_ptr, k_out_ptr, q_weight_ptr, k_weight_ptr, cos_ptr, sin_ptr,
    rows, tokens, x_sample, x_token, x_head, table_sample, eps,
    D: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, H: tl.constexpr, HEADS: tl.constexpr, TOKENS: tl.constexpr,
    PARTS: tl.constexpr, INTERLEAVED: tl.constexpr, ONLY: tl.constexpr, INVERSE: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """ONLY: the one part that is normed, where not both are; else -1."""
    GROUPS: tl.constexpr = H // HEADS
    part, group = tl.program_id(0) % PARTS, tl.program_id(0) // PARTS % GROUPS
    block = tl.program_id(0) // PARTS // GROUPS
    ptr, out_ptr, weight_ptr = q_ptr, q_out_ptr, q_weight_ptr
    if PARTS > 1:  # noqa: SIM102 (decided when compiling, the inner one when running)
        if part == 1:
            ptr, out_ptr, weight_ptr = k_ptr, k_out_ptr, k_weight_ptr
    row = (block * TOKENS + tl.arange(0, TOKENS))[:, None, None]
    head = (group * HEADS + tl.arange(0, HEADS))[None, :, None]
    valid = row < rows
    sample, token = (row // tokens).to(tl.int64), (row % tokens).to(tl.int64)
    start = _steps(sample, x_sample, ALIGN) + _steps(token, x_token, ALIGN)
    start = start + _steps(head, x_head, ALIGN)
    a1, b1 = _load_pairs(ptr, start, valid, D, 0, P1, INTERLEAVED)
    a2, b2 = _load_pairs(ptr, start, valid, D, P1, P2, INTERLEAVED)
    if weight_ptr is not None:
        rstd = tl.rsqrt(_head_sums(a1 * a1 + b1 * b1, a2 * a2 + b2 * b2) / D + eps)
        wa1, wb1, wa2, wb2 = _weights(weight_ptr, D, P1, P2, INTERLEAVED)
        if ONLY >= 0:
            normed = part == ONLY
            rstd, wa1, wb1 = tl.where(normed, rstd, 1.0), tl.where(normed, wa1, 1.0), tl.where(normed, wb1, 1.0)
            wa2, wb2 = tl.where(normed, wa2, 1.0), tl.where(normed, wb2, 1.0)
        a1, b1, a2, b2 = a1 * rstd * wa1, b1 * rstd * wb1, a2 * rstd * wa2, b2 * rstd * wb2
    out = row.to(tl.int64) * (H * D) + head * D
    if cos_ptr is not None:
        cos, sin = _angles(cos_ptr, sin_ptr, sample * table_sample + token, valid, D, 0, P1)
        if INVERSE:
            sin = -sin
        a1, b1 = a1 * cos - b1 * sin, a1 * sin + b1 * cos
        cos, sin = _angles(cos_ptr, sin_ptr, sample * table_sample + token, valid, D, P1, P2)
        if INVERSE:
            sin = -sin
        a2, b2 = a2 * cos - b2 * sin, a2 * sin + b2 * cos
    _store_pairs(out_ptr, out, valid, a1, b1, D, 0, P1, INTERLEAVED)
    _store_pairs(out_ptr, out, valid, a2, b2, D, P1, P2, INTERLEAVED)


@triton.jit
def _backward(
    dq_ptr, dk_ptr, dv_ptr, q_ptr, k_ptr, q_weight_ptr, k_weight_ptr, cos_ptr, sin_ptr,
    dq_out_ptr, dk_out_ptr, dv_out_ptr, sums_ptr, rows, tokens, per_block,
    dy_sample, dy_token, dy_head, dv_sample, dv_token, dv_head, x_sample, x_token, x_head,
    dx_sample, dx_token, dx_head, table_sample, eps,
    D: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, H: tl.constexpr, HEADS: tl.constexpr, TOKENS: tl.constexpr,
    PARTS: tl.constexpr, INTERLEAVED: tl.constexpr, ONLY: tl.constexpr, ALIGN: tl.constexpr, BIAS: tl.constexpr,
    SUMS: tl.constexpr,
):  # fmt: skip
    """SUMS: numbers that a block writes: of the bias, where that is wanted, then of each norm and group of heads."""
    GROUPS: tl.constexpr = H // HEADS
    part, group = tl.program_id(0) % PARTS, tl.program_id(0) // PARTS % GROUPS
    block = tl.program_id(0) // PARTS // GROUPS
    dy_ptr, out_ptr, x_ptr, weight_ptr = dq_ptr, dq_out_ptr, q_ptr, q_weight_ptr
    if part == 1:
        dy_ptr, out_ptr, x_ptr, weight_ptr = dk_ptr, dk_out_ptr, k_ptr, k_weight_ptr
    head = (group * HEADS + tl.arange(0, HEADS))[None, :, None]
    x_heads = _steps(head, x_head, ALIGN)
    dy_heads, dx_heads = _steps(head, dy_head, ALIGN), _steps(head, dx_head, ALIGN)
    first = block * per_block
    last = tl.minimum(first + per_block, rows)
    zeros1, zeros2 = tl.zeros((TOKENS, HEADS, P1), tl.float32), tl.zeros((TOKENS, HEADS, P2), tl.float32)
    bias_a1, bias_b1, bias_a2, bias_b2 = zeros1, zeros1, zeros2, zeros2
    if part == 2:
        dv_heads = _steps(head, dv_head, ALIGN)
        for begin in range(first, last, TOKENS):
            row = (begin + tl.arange(0, TOKENS))[:, None, None]
            valid = row < last
            sample, token = (row // tokens).to(tl.int64), (row % tokens).to(tl.int64)
            start = _steps(sample, dv_sample, ALIGN) + _steps(token, dv_token, ALIGN)
            a1, b1 = _load_pairs(dv_ptr, start + dv_heads, valid, D, 0, P1, INTERLEAVED)
            a2, b2 = _load_pairs(dv_ptr, start + dv_heads, valid, D, P1, P2, INTERLEAVED)
            start = _steps(sample, dx_sample, ALIGN) + _steps(token, dx_token, ALIGN)
            _store_pairs(dv_out_ptr, start + dx_heads, valid, a1, b1, D, 0, P1, INTERLEAVED)
            _store_pairs(dv_out_ptr, start + dx_heads, valid, a2, b2, D, P1, P2, INTERLEAVED)
            if BIAS:
                bias_a1 += a1
                bias_b1 += b1
                bias_a2 += a2
                bias_b2 += b2
    else:
        here, nowhere = tl.full((1, 1, 1), 1, tl.int1), tl.zeros((1, 1, 1), tl.int32)
        if weight_ptr is not None:
            wa1, wb1, wa2, wb2 = _weights(weight_ptr, D, P1, P2, INTERLEAVED)
            if ONLY >= 0:
                normed = part == ONLY
                wa1, wb1 = tl.where(normed, wa1, 1.0), tl.where(normed, wb1, 1.0)
                wa2, wb2 = tl.where(normed, wa2, 1.0), tl.where(normed, wb2, 1.0)
        sum_a1, sum_b1, sum_a2, sum_b2 = zeros1, zeros1, zeros2, zeros2
        for begin in range(first, last, TOKENS):
            row = (begin + tl.arange(0, TOKENS))[:, None, None]
            valid = row < last
            sample, token = (row // tokens).to(tl.int64), (row % tokens).to(tl.int64)
            start = _steps(sample, dy_sample, ALIGN) + _steps(token, dy_token, ALIGN)
            a1, b1 = _load_pairs(dy_ptr, start + dy_heads, valid, D, 0, P1, INTERLEAVED)
            a2, b2 = _load_pairs(dy_ptr, start + dy_heads, valid, D, P1, P2, INTERLEAVED)
            if weight_ptr is not None:
                start = _steps(sample, x_sample, ALIGN) + _steps(token, x_token, ALIGN)
                xa1, xb1 = _load_pairs(x_ptr, start + x_heads, valid, D, 0, P1, INTERLEAVED)
                xa2, xb2 = _load_pairs(x_ptr, start + x_heads, valid, D, P1, P2, INTERLEAVED)
            if cos_ptr is not None:
                cos, sin = _angles(cos_ptr, sin_ptr, sample * table_sample + token, valid, D, 0, P1)
                a1, b1 = a1 * cos + b1 * sin, b1 * cos - a1 * sin
                cos, sin = _angles(cos_ptr, sin_ptr, sample * table_sample + token, valid, D, P1, P2)
                a2, b2 = a2 * cos + b2 * sin, b2 * cos - a2 * sin
            if weight_ptr is not None:
                rstd = tl.rsqrt(_head_sums(xa1 * xa1 + xb1 * xb1, xa2 * xa2 + xb2 * xb2) / D + eps)
                if ONLY >= 0:
                    rstd = tl.where(part == ONLY, rstd, 1.0)
                xa1, xb1, xa2, xb2 = xa1 * rstd, xb1 * rstd, xa2 * rstd, xb2 * rstd
                sum_a1 += a1 * xa1
                sum_b1 += b1 * xb1
                sum_a2 += a2 * xa2
                sum_b2 += b2 * xb2
                a1, b1, a2, b2 = a1 * wa1, b1 * wb1, a2 * wa2, b2 * wb2
                along = _head_sums(a1 * xa1 + b1 * xb1, a2 * xa2 + b2 * xb2) / D
                if ONLY >= 0:
                    along = tl.where(part == ONLY, along, 0.0)
                a1, b1 = (a1 - xa1 * along) * rstd, (b1 - xb1 * along) * rstd
                a2, b2 = (a2 - xa2 * along) * rstd, (b2 - xb2 * along) * rstd
            start = _steps(sample, dx_sample, ALIGN) + _steps(token, dx_token, ALIGN)
            _store_pairs(out_ptr, start + dx_heads, valid, a1, b1, D, 0, P1, INTERLEAVED)
            _store_pairs(out_ptr, start + dx_heads, valid, a2, b2, D, P1, P2, INTERLEAVED)
            if BIAS:
                bias_a1 += a1
                bias_b1 += b1
                bias_a2 += a2
                bias_b2 += b2
        if weight_ptr is not None:
            # The norms' sums stand after the bias's; those of k after those of q.
            place = sums_ptr + block.to(tl.int64) * SUMS + SUMS - (2 * GROUPS - part * GROUPS - group) * D
            sum_a1, sum_b1 = tl.sum(sum_a1, 0, True), tl.sum(sum_b1, 0, True)
            sum_a2, sum_b2 = tl.sum(sum_a2, 0, True), tl.sum(sum_b2, 0, True)
            _store_pairs(place, nowhere, here, tl.sum(sum_a1, 1, True), tl.sum(sum_b1, 1, True), D, 0, P1, INTERLEAVED)
            _store_pairs(place, nowhere, here, tl.sum(sum_a2, 1, True), tl.sum(sum_b2, 1, True), D, P1, P2, INTERLEAVED)
    if BIAS:
        place = sums_ptr + block.to(tl.int64) * SUMS + part * (H * D)
        every = tl.full((1, 1, 1), 1, tl.int1)
        _store_pairs(place, head * D, every, tl.sum(bias_a1, 0, True), tl.sum(bias_b1, 0, True), D, 0, P1, INTERLEAVED)
        _store_pairs(place, head * D, every, tl.sum(bias_a2, 0, True), tl.sum(bias_b2, 0, True), D, P1, P2, INTERLEAVED)


@triton.jit
def _finish(
    sums_ptr, dbias_ptr, dq_weight_ptr, dk_weight_ptr, blocks,
    D: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr, SUMS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add up the blocks' sums: WIDTH columns of the bias (0: there is none), then those of the weights, over groups."""
    BIAS: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS
    WEIGHT: tl.constexpr = (D + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    if program < BIAS:
        column = program * COLUMNS + tl.arange(0, COLUMNS)
        for first in range(0, blocks, ROWS):
            row = first + tl.arange(0, ROWS)
            there = (row < blocks)[:, None] & (column < WIDTH)[None, :]
            total += tl.load(sums_ptr + row.to(tl.int64)[:, None] * SUMS + column[None, :], mask=there, other=0.0)
        if dbias_ptr is not None:
            tl.store(dbias_ptr + column, tl.sum(total, axis=0), mask=column < WIDTH)
    else:
        which, chunk = (program - BIAS) // WEIGHT, (program - BIAS) % WEIGHT
        column = chunk * COLUMNS + tl.arange(0, COLUMNS)
        for first in range(0, blocks * GROUPS, ROWS):
            row = first + tl.arange(0, ROWS)
            there = (row < blocks * GROUPS)[:, None] & (column < D)[None, :]
            place = (row // GROUPS).to(tl.int64) * SUMS + WIDTH + (which * GROUPS + row % GROUPS) * D
            total += tl.load(sums_ptr + place[:, None] + column[None, :], mask=there, other=0.0)
        if which == 0:
            if dq_weight_ptr is not None:
                tl.store(dq_weight_ptr + column, tl.sum(total, axis=0), mask=column < D)
        else:
            if dk_weight_ptr is not None:
                tl.store(dk_weight_ptr + column, tl.sum(total, axis=0), mask=column < D)


Tables = tuple[Tensor, Tensor] | None
Weights = tuple[Tensor | None, Tensor | None]


def forward(
    xs: Sequence[Tensor],
    weights: Weights,
    tables: Tables,
    interleaved: bool,
    eps: float,
    inverse: bool = False,
) -> list[Tensor]:
    """Norm and rotate one or two tensors in one launch.

    Args:
        xs: [q] or [q, k], each (B, N, H, D).
        weights: Weights of the norms of q and k, (D,), or None for no norm.
        tables: Cosines and sines, (N, D/2) or (B, 1, N, D/2), or None for no rotation.
        interleaved: Pairs are neighbours; otherwise they are D/2 apart.
        eps: Added to the mean square in the norms.
        inverse: Rotate by the opposite angles.

    Returns:
        The results, contiguous, in the dtype of x * weight.
    """
    xs = _alike(xs)
    outs = [torch.empty(x.shape, dtype=_dtype(x, w), device=x.device) for x, w in zip(xs, weights, strict=False)]
    config, (batch, tokens, heads, width) = configs.heads(xs[0].shape[2], xs[0].shape[3]), xs[0].shape
    arguments = {
        **_named("{}_ptr", xs, 2),
        **_named("{}_out_ptr", outs, 2),
        **_shared(xs[0], weights, tables),
        **_strides("x", xs[0]),
        "eps": eps,
    }
    constants = _constants(width, heads, config, len(xs), interleaved, weights)
    constants |= {"INVERSE": inverse, "ALIGN": alignment(xs[0])}
    grid = (triton.cdiv(batch * tokens, config.rows) * (heads // config.columns) * len(xs),)
    launch(_forward, grid, arguments, constants, config)
    return outs


def backward(
    dys: Sequence[Tensor],
    xs: Sequence[Tensor],
    weights: Weights,
    tables: Tables,
    interleaved: bool,
    eps: float,
    bias: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of `forward` of q and k, and v's, packed: one launch, and a second one where something is summed.

    Args:
        dys: Gradients of the results and of v, each (B, N, H, D).
        xs: As for `forward`: [q, k].
        weights: As for `forward`.
        tables: As for `forward`.
        interleaved: As for `forward`.
        eps: As for `forward`.
        bias: Dtype in which the gradient of the packed projection's bias is wanted; None: it is not.

    Returns:
        The gradient of packed qkv, (B, N, 3, H, D); those of the weights, None where there is no weight; and that of
        the bias, (3 * H * D,), or None.
    """
    (dq, dk), dv, xs = _alike(dys[:2]), _alike(dys[2:])[0], _alike(xs)
    batch, tokens, heads, width = xs[0].shape
    config = configs.heads(heads, width, warps=8)
    groups = heads // config.columns if heads else 0
    dqkv = torch.empty(batch, tokens, 3, heads, width, dtype=xs[0].dtype, device=dq.device)
    dxs = dqkv.unbind(2)
    per_block = configs.rows_per_reduction(1, batch * tokens, config, 3 * groups)
    blocks = triton.cdiv(batch * tokens, per_block)
    normed, packed = any(w is not None for w in weights), 3 * heads * width if bias is not None else 0
    count = packed + (2 * groups * width if normed else 0)
    sums = torch.empty(blocks, count, dtype=torch.float32, device=dq.device) if count else None
    arguments = {
        **_named("d{}_ptr", (dq, dk, dv), 3),
        **_named("{}_ptr", xs, 2),
        **_named("d{}_out_ptr", dxs, 3),
        **_shared(xs[0], weights, tables),
        "sums_ptr": sums,
        "per_block": per_block,
        **_strides("dy", dq),
        **_strides("dv", dv),
        **_strides("x", xs[0]),
        **_strides("dx", dxs[0]),
        "eps": eps,
    }
    constants = _constants(width, heads, config, 3, interleaved, weights)
    constants |= {"ALIGN": alignment(dq, dv, xs[0], dxs[0]), "BIAS": bias is not None, "SUMS": count}
    launch(_backward, (blocks * groups * 3,), arguments, constants, config)
    dweights = [None if w is None else torch.empty(w.shape, dtype=w.dtype, device=w.device) for w in weights]
    dbias = None if bias is None else torch.empty(packed, dtype=bias, device=dq.device)
    if sums is not None:
        config = configs.finish()
        arguments = {"sums_ptr": sums, "dbias_ptr": dbias, **_named("d{}_weight_ptr", dweights, 2), "blocks": blocks}
        constants = {"D": width, "WIDTH": packed, "GROUPS": groups, "SUMS": count}
        constants |= {"ROWS": config.rows, "COLUMNS": config.columns}
        programs = triton.cdiv(packed, config.columns) + (2 * triton.cdiv(width, config.columns) if normed else 0)
        launch(_finish, (programs,), arguments, constants, config)
    return dqkv, dweights[0], dweights[1], dbias


def _dtype(x: Tensor, weight: Tensor | None) -> torch.dtype:
    return x.dtype if weight is None else torch.promote_types(x.dtype, weight.dtype)


def _alike(xs: Sequence[Tensor]) -> Sequence[Tensor]:
    """The tensors, copied where their strides differ or the last is not 1."""
    if xs[0].stride(-1) == 1 and all(x.stride() == xs[0].stride() for x in xs[1:]):
        return xs
    return [x.contiguous() for x in xs]


def _named(pattern: str, tensors: Sequence[Tensor | None], count: int) -> dict[str, Tensor | None]:
    return {pattern.format(name): tensors[i] if i < len(tensors) else None for i, name in enumerate("qkv"[:count])}


def _strides(name: str, x: Tensor) -> dict[str, int]:
    return {f"{name}_sample": x.stride(0), f"{name}_token": x.stride(1), f"{name}_head": x.stride(2)}


def _shared(x: Tensor, weights: Weights, tables: Tables) -> dict[str, Argument]:
    batch, tokens = x.shape[:2]
    cos, sin = (t.contiguous() for t in tables) if tables is not None else (None, None)
    return {
        # Where one is absent the other stands for it, unused.
        "q_weight_ptr": weights[1] if weights[0] is None else weights[0],
        "k_weight_ptr": weights[0] if weights[1] is None else weights[1],
        "cos_ptr": cos,
        "sin_ptr": sin,
        "rows": batch * tokens,
        "tokens": tokens,
        # Rows of the table from one sample to the next; 0 where the samples share it.
        "table_sample": tokens if cos is not None and cos.ndim == 4 and cos.shape[0] > 1 else 0,
    }


@functools.cache
def _tiles(width: int) -> dict[str, int]:
    pairs = width // 2
    first = 1 << max((pairs - 1).bit_length() - 1, 0)
    return {"D": width, "P1": first, "P2": 1 << max(pairs - first - 1, 0).bit_length()}


def _constants(
    width: int, heads: int, config: configs.Config, parts: int, interleaved: bool, weights: Weights
) -> dict[str, int | bool]:
    shape = {"H": heads, "HEADS": config.columns, "TOKENS": config.rows, "PARTS": parts}
    both = (weights[0] is None) == (weights[1] is None) or parts == 1
    only = -1 if both else 0 if weights[1] is None else 1
    return {**_tiles(width), **shape, "INTERLEAVED": interleaved, "ONLY": only}
