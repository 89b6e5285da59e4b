"""RMSNorm, residual and RMSNorm, and adaLN: gate, residual, norm and modulation of a row in one pass, as are gradients.

    residual = x + gate * update;    out = norm(residual) * weight * (1 + scale) + shift

Whatever is absent costs nothing: RMSNorm is x and weight alone. The residual is rounded to its dtype before the norm,
because the backward pass reads it rounded. Arithmetic is fp32. A block of either kernel stays within one sample, whose
gate, scale and shift it reads once. While the forward kernel works on some rows the next ones are on their way; the
backward kernel needs its registers for sums, and leaves that to the other warps of a multiprocessor.

The backward kernel writes sums over the rows of each block, in fp32; a second one adds them up in a fixed order and
makes the gradients of gate, scale, shift, weight and of the bias that the update's projection has added. The sum of
dout * normed serves both scale (times weight) and weight (times 1 + scale).
"""

# Triton compiles the functions under @triton.jit by its own rules: arguments become constants, and an `if` on one is
# decided when compiling.
# pyright: reportPossiblyUnboundVariable=false, reportArgumentType=false

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fae_core.ops.triton import configs
from fae_core.ops.triton.launch import alignment, dense_rows, launch
from fae_core.ops.triton.tiles import (
    load_rows,
    load_vector,
    row_sums,
    store_column_sums,
    store_per_row,
    store_rows,
    tiling,
    wide,
)


@triton.jit
def _factors(
    scale_ptr, weight_ptr, part, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr,
    N1: tl.constexpr, C1: tl.constexpr, N2: tl.constexpr, C2: tl.constexpr,
):  # fmt: skip
    """weight * (1 + scale) in fp32, as two tiles."""
    f1, f2 = 1.0, 1.0
    if scale_ptr is not None:
        s1, s2 = load_vector(scale_ptr, part, WIDTH, PART, PARTS, N1, C1, N2, C2)
        f1, f2 = 1.0 + wide(s1), 1.0 + wide(s2)
    if weight_ptr is not None:
        w1, w2 = load_vector(weight_ptr, part, WIDTH, PART, PARTS, N1, C1, N2, C2)
        f1, f2 = f1 * wide(w1), f2 * wide(w2)
    return f1, f2


@triton.jit
def _centred(
    x1, x2, part, ROWS: tl.constexpr, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr,
    N1: tl.constexpr, C1: tl.constexpr, N2: tl.constexpr, C2: tl.constexpr,
):  # fmt: skip
    """The rows' means, and the rows less their means. Columns that a row lacks are 0 before and after."""
    mean = row_sums(x1, x2, ROWS, PARTS) / WIDTH
    # Exact tiles have no such columns, and 1 folds away.
    one1, one2 = 1.0, 1.0
    if N1 + N2 > PART or PART * PARTS > WIDTH:
        c1 = tl.arange(0, N1 // C1)[:, None, None] * C1 + tl.arange(0, C1)[None, None, :]
        c2 = N1 + tl.arange(0, N2 // C2)[:, None, None] * C2 + tl.arange(0, C2)[None, None, :]
        at = part[None, :, None] * PART
        one1 = ((c1 < PART) & (at + c1 < WIDTH)).to(tl.float32)
        one2 = ((c2 < PART) & (at + c2 < WIDTH)).to(tl.float32)
    return mean, (x1 - mean[None, :, None]) * one1, (x2 - mean[None, :, None]) * one2


@triton.jit
def _forward(
    x_ptr, update_ptr, gate_ptr, scale_ptr, shift_ptr, weight_ptr, residual_ptr, out_ptr, stats_ptr,
    rows, tokens, blocks, per_block, x_sample, x_token, update_sample, update_token,
    gate_sample, scale_sample, shift_sample, eps,
    WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr,
    N1: tl.constexpr, C1: tl.constexpr, N2: tl.constexpr, C2: tl.constexpr,
    ROWS: tl.constexpr, LAYER: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    sample, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    first = block * per_block
    count = tl.minimum(tokens - first, per_block)
    # From here on rows count from the block's first, so that their places fit 32 bits.
    part, token = tl.arange(0, ROWS * PARTS) % PARTS, tl.arange(0, ROWS * PARTS) // PARTS
    x_ptr += tl.multiple_of(sample * x_sample, ALIGN) + tl.multiple_of(first * x_token, ALIGN)
    out_ptr += (sample * tokens + first) * WIDTH
    stats_ptr += sample * tokens + first
    if update_ptr is not None:
        update_ptr += tl.multiple_of(sample * update_sample, ALIGN) + tl.multiple_of(first * update_token, ALIGN)
        residual_ptr += (sample * tokens + first) * WIDTH
    if gate_ptr is not None:
        gate_ptr += tl.multiple_of(sample * gate_sample, ALIGN)
        g1, g2 = load_vector(gate_ptr, part, WIDTH, PART, PARTS, N1, C1, N2, C2)
    if scale_ptr is not None:
        scale_ptr += tl.multiple_of(sample * scale_sample, ALIGN)
    f1, f2 = _factors(scale_ptr, weight_ptr, part, WIDTH, PART, PARTS, N1, C1, N2, C2)
    if shift_ptr is not None:
        shift_ptr += tl.multiple_of(sample * shift_sample, ALIGN)
    valid = token < count
    start = tl.multiple_of(token * x_token.to(tl.int32), ALIGN) + part * PART
    x1, x2 = load_rows(x_ptr, start, part, valid, WIDTH, PART, PARTS, N1, C1, N2, C2)
    if update_ptr is not None:
        start = tl.multiple_of(token * update_token.to(tl.int32), ALIGN) + part * PART
        u1, u2 = load_rows(update_ptr, start, part, valid, WIDTH, PART, PARTS, N1, C1, N2, C2)
    for _ in range(0, count, ROWS):
        ahead = token + ROWS
        there = ahead < count
        start = tl.multiple_of(ahead * x_token.to(tl.int32), ALIGN) + part * PART
        next_x1, next_x2 = load_rows(x_ptr, start, part, there, WIDTH, PART, PARTS, N1, C1, N2, C2)
        if update_ptr is not None:
            start = tl.multiple_of(ahead * update_token.to(tl.int32), ALIGN) + part * PART
            next_u1, next_u2 = load_rows(update_ptr, start, part, there, WIDTH, PART, PARTS, N1, C1, N2, C2)
        dense = token * WIDTH + part * PART
        a, b = x1.to(tl.float32), x2.to(tl.float32)
        if update_ptr is not None:
            if gate_ptr is not None:
                a += u1.to(tl.float32) * wide(g1)
                b += u2.to(tl.float32) * wide(g2)
            else:
                a += wide(u1)
                b += wide(u2)
            r1, r2 = a.to(residual_ptr.dtype.element_ty), b.to(residual_ptr.dtype.element_ty)
            store_rows(residual_ptr, dense, part, valid, r1, r2, WIDTH, PART, PARTS, N1, C1, N2, C2)
            a, b = wide(r1), wide(r2)
        if LAYER:
            mean, a, b = _centred(a, b, part, ROWS, WIDTH, PART, PARTS, N1, C1, N2, C2)
            store_per_row(stats_ptr + rows, token, part, valid, mean)
        rstd = tl.rsqrt(row_sums(a * a, b * b, ROWS, PARTS) / WIDTH + eps)
        store_per_row(stats_ptr, token, part, valid, rstd)
        a, b = a * rstd[None, :, None] * f1, b * rstd[None, :, None] * f2
        if shift_ptr is not None:
            # Read again for each row, from the nearest cache: it would take the registers that hold the next row.
            s1, s2 = load_rows(shift_ptr, part * PART, part, valid, WIDTH, PART, PARTS, N1, C1, N2, C2)
            a += wide(s1)
            b += wide(s2)
        store_rows(out_ptr, dense, part, valid, a, b, WIDTH, PART, PARTS, N1, C1, N2, C2)
        token, valid, x1, x2 = ahead, there, next_x1, next_x2
        if update_ptr is not None:
            u1, u2 = next_u1, next_u2


@triton.jit
def _backward(
    dout_ptr, dresidual_ptr, residual_ptr, update_ptr, gate_ptr, scale_ptr, weight_ptr, stats_ptr,
    dx_ptr, dupdate_ptr, sums_ptr, rows, tokens, blocks, per_block, gate_sample, scale_sample,
    WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr,
    N1: tl.constexpr, C1: tl.constexpr, N2: tl.constexpr, C2: tl.constexpr,
    ROWS: tl.constexpr, LAYER: tl.constexpr, ALIGN: tl.constexpr,
    UNIT: tl.constexpr, GATE: tl.constexpr, SHIFT: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """UNIT, GATE, SHIFT, BIAS: which sums over the rows are wanted, in the order in which they are written."""
    sample, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    first = block * per_block
    count = tl.minimum(tokens - first, per_block)
    part, token = tl.arange(0, ROWS * PARTS) % PARTS, tl.arange(0, ROWS * PARTS) // PARTS
    begin = (sample * tokens + first) * WIDTH
    dout_ptr += begin
    residual_ptr += begin
    dx_ptr += begin
    stats_ptr += sample * tokens + first
    if dresidual_ptr is not None:
        dresidual_ptr += begin
    if GATE:
        update_ptr += begin
    if dupdate_ptr is not None:
        dupdate_ptr += begin
    if gate_ptr is not None:
        gate_ptr += tl.multiple_of(sample * gate_sample, ALIGN)
        g1, g2 = load_vector(gate_ptr, part, WIDTH, PART, PARTS, N1, C1, N2, C2)
    if scale_ptr is not None:
        scale_ptr += tl.multiple_of(sample * scale_sample, ALIGN)
    f1, f2 = _factors(scale_ptr, weight_ptr, part, WIDTH, PART, PARTS, N1, C1, N2, C2)
    zeros1, zeros2 = (
        tl.zeros((N1 // C1, ROWS * PARTS, C1), tl.float32),
        tl.zeros((N2 // C2, ROWS * PARTS, C2), tl.float32),
    )
    unit1, unit2, gate1, gate2 = zeros1, zeros2, zeros1, zeros2
    shift1, shift2, bias1, bias2 = zeros1, zeros2, zeros1, zeros2
    for _ in range(0, count, ROWS):
        valid = token < count
        start = token * WIDTH + part * PART
        r1, r2 = load_rows(residual_ptr, start, part, valid, WIDTH, PART, PARTS, N1, C1, N2, C2)
        d1, d2 = load_rows(dout_ptr, start, part, valid, WIDTH, PART, PARTS, N1, C1, N2, C2)
        if dresidual_ptr is not None:
            e1, e2 = load_rows(dresidual_ptr, start, part, valid, WIDTH, PART, PARTS, N1, C1, N2, C2)
        if GATE:
            u1, u2 = load_rows(update_ptr, start, part, valid, WIDTH, PART, PARTS, N1, C1, N2, C2)
        rstd = tl.load(stats_ptr + token, mask=valid, other=0.0)
        k = rstd[None, :, None]
        if LAYER:
            mean = tl.load(stats_ptr + rows + token, mask=valid, other=0.0)[None, :, None]
            x1, x2 = (wide(r1) - mean) * k, (wide(r2) - mean) * k
        else:
            x1, x2 = wide(r1) * k, wide(r2) * k
        d1, d2 = wide(d1), wide(d2)
        if SHIFT:
            shift1 += d1
            shift2 += d2
        if UNIT:
            unit1 += d1 * x1
            unit2 += d2 * x2
        d1 *= f1
        d2 *= f2
        along = (row_sums(d1 * x1, d2 * x2, ROWS, PARTS) * (rstd / WIDTH))[None, :, None]
        if LAYER:
            level = (row_sums(d1, d2, ROWS, PARTS) * (rstd / WIDTH))[None, :, None]
            d1, d2 = d1 * k - level, d2 * k - level
        else:
            d1, d2 = d1 * k, d2 * k
        if dresidual_ptr is not None:
            d1 += wide(e1)
            d2 += wide(e2)
        d1 -= x1 * along
        d2 -= x2 * along
        store_rows(dx_ptr, start, part, valid, d1, d2, WIDTH, PART, PARTS, N1, C1, N2, C2)
        if GATE:
            gate1 += d1 * wide(u1)
            gate2 += d2 * wide(u2)
        if gate_ptr is not None:
            d1 *= wide(g1)
            d2 *= wide(g2)
        if dupdate_ptr is not None:
            store_rows(dupdate_ptr, start, part, valid, d1, d2, WIDTH, PART, PARTS, N1, C1, N2, C2)
        if BIAS:
            bias1 += d1
            bias2 += d2
        token += ROWS
    if UNIT or GATE or SHIFT or BIAS:
        out = sums_ptr + tl.program_id(0).to(tl.int64) * ((UNIT + GATE + SHIFT + BIAS) * WIDTH)
    if UNIT:
        store_column_sums(out, unit1, unit2, ROWS, WIDTH, PART, PARTS, N1, C1, N2, C2)
        out += WIDTH
    if GATE:
        store_column_sums(out, gate1, gate2, ROWS, WIDTH, PART, PARTS, N1, C1, N2, C2)
        out += WIDTH
    if SHIFT:
        store_column_sums(out, shift1, shift2, ROWS, WIDTH, PART, PARTS, N1, C1, N2, C2)
        out += WIDTH
    if BIAS:
        store_column_sums(out, bias1, bias2, ROWS, WIDTH, PART, PARTS, N1, C1, N2, C2)


@triton.jit
def _finish(
    sums_ptr, scale_ptr, weight_ptr, dgate_ptr, dscale_ptr, dshift_ptr, dweight_ptr, dbias_ptr,
    samples, blocks, scale_sample, WIDTH: tl.constexpr, SAMPLES: tl.constexpr, BLOCKS: tl.constexpr,
    COLUMNS: tl.constexpr, UNIT: tl.constexpr, GATE: tl.constexpr, SHIFT: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Add up the blocks' sums: some columns of all samples, in tiles of (SAMPLES, BLOCKS, COLUMNS)."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    exists = column < WIDTH
    weight = 1.0
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + column, mask=exists, other=0.0).to(tl.float32)[None, :]
    total, total_bias = tl.zeros((SAMPLES, COLUMNS), tl.float32), tl.zeros((SAMPLES, COLUMNS), tl.float32)
    for first in range(0, samples, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        unit, gate = tl.zeros((SAMPLES, COLUMNS), tl.float32), tl.zeros((SAMPLES, COLUMNS), tl.float32)
        shift = tl.zeros((SAMPLES, COLUMNS), tl.float32)
        for first_block in range(0, blocks, BLOCKS):
            block = first_block + tl.arange(0, BLOCKS)[None, :, None]
            row = sample.to(tl.int64)[:, None, None] * blocks + block
            there = (sample < samples)[:, None, None] & (block < blocks) & exists[None, None, :]
            at = sums_ptr + row * ((UNIT + GATE + SHIFT + BIAS) * WIDTH) + column[None, None, :]
            if UNIT:
                unit += tl.sum(tl.load(at, mask=there, other=0.0), axis=1)
                at += WIDTH
            if GATE:
                gate += tl.sum(tl.load(at, mask=there, other=0.0), axis=1)
                at += WIDTH
            if SHIFT:
                shift += tl.sum(tl.load(at, mask=there, other=0.0), axis=1)
                at += WIDTH
            if BIAS:
                total_bias += tl.sum(tl.load(at, mask=there, other=0.0), axis=1)
        there = (sample < samples)[:, None] & exists[None, :]
        place = sample.to(tl.int64)[:, None] * WIDTH + column[None, :]
        if dscale_ptr is not None:
            tl.store(dscale_ptr + place, unit * weight, mask=there)
        if dgate_ptr is not None:
            tl.store(dgate_ptr + place, gate, mask=there)
        if dshift_ptr is not None:
            tl.store(dshift_ptr + place, shift, mask=there)
        if dweight_ptr is not None:
            if scale_ptr is not None:
                scale_place = sample.to(tl.int64)[:, None] * scale_sample + column[None, :]
                unit *= 1.0 + tl.load(scale_ptr + scale_place, mask=there, other=0.0).to(tl.float32)
            total += unit
    if dweight_ptr is not None:
        tl.store(dweight_ptr + column, tl.sum(total, axis=0), mask=exists)
    if dbias_ptr is not None:
        tl.store(dbias_ptr + column, tl.sum(total_bias, axis=0), mask=exists)


# Places within a block are counted in 32 bits.
_LONGEST_STRIDE = 2**20


class Operands(NamedTuple):
    """What is combined with x, or the gradients of these; None where there is none.

    Attributes:
        update: Output of the branch before, of x's shape.
        gate: Factor of the update, (B, D).
        scale: Modulation of the norm, (B, D).
        shift: Added after the norm, (B, D).
        weight: Weight of the norm, (D,).
        bias: What the update's projection has added to it, (D,): it is not added again, and its gradient is the sum
            over the rows of the update's, which the kernel has at hand.
    """

    update: Tensor | None = None
    gate: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None


def forward(
    x: Tensor, operands: Operands, layer: bool, eps: float, residual_dtype: torch.dtype, out_dtype: torch.dtype
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The residual, and its norm, modulated: one launch.

    Args:
        x: The residual stream: (B, N, D), or (..., D) where no operand is per sample.
        operands: What is combined with it.
        layer: LayerNorm instead of RMSNorm.
        eps: Added to the mean square, or to the variance.
        residual_dtype: Dtype of the residual.
        out_dtype: Dtype of out.

    Returns:
        (residual, out, stats): residual and out contiguous, residual None where there is no update; stats for
        `backward`, fp32: 1 / deviation of the rows and, of LayerNorm, their means, (1 or 2, rows).
    """
    update, gate, scale, shift, weight, _ = operands
    width = x.shape[-1]
    residual = torch.empty(x.shape, dtype=residual_dtype, device=x.device) if update is not None else None
    out = torch.empty(x.shape, dtype=out_dtype, device=x.device)
    samples, tokens = _rows(x, operands)
    stats = torch.empty(2 if layer else 1, samples * tokens, dtype=torch.float32, device=x.device)
    x, (gate, scale, shift) = _by_sample(x, samples), dense_rows(gate, scale, shift)
    update = x if update is None else _by_sample(update, samples)
    config = configs.row_norm(width, x.dtype.itemsize)
    per_block = configs.rows_per_block(samples, tokens, config)
    arguments = {
        "x_ptr": x,
        "update_ptr": update if residual is not None else None,
        "gate_ptr": gate,
        "scale_ptr": scale,
        "shift_ptr": shift,
        "weight_ptr": weight,
        "residual_ptr": residual,
        "out_ptr": out,
        "stats_ptr": stats,
        "rows": samples * tokens,
        "tokens": tokens,
        "blocks": triton.cdiv(tokens, per_block),
        "per_block": per_block,
        "x_sample": x.stride(0),
        "x_token": x.stride(1),
        "update_sample": update.stride(0),
        "update_token": update.stride(1),
        "gate_sample": 0 if gate is None else gate.stride(0),
        "scale_sample": 0 if scale is None else scale.stride(0),
        "shift_sample": 0 if shift is None else shift.stride(0),
        "eps": eps,
    }
    strided = [t for t in (x, update, gate, scale, shift) if t is not None]
    constants = {
        **tiling(width, config.parts),
        "ROWS": config.rows,
        "LAYER": layer,
        "ALIGN": alignment(*strided),
    }
    launch(_forward, (samples * arguments["blocks"],), arguments, constants, config)
    return residual, out, stats


def backward(
    dout: Tensor,
    dresidual: Tensor | None,
    residual: Tensor,
    stats: Tensor,
    operands: Operands,
    layer: bool,
    x_dtype: torch.dtype,
) -> tuple[Tensor, Operands]:
    """Gradients of `forward`: one launch, and a second one where something is summed over rows.

    Args:
        dout: Gradient of out.
        dresidual: Gradient of the residual; None where the residual was not used.
        residual: What was normed: the residual, or x where there was no update.
        stats: As `forward` returned them.
        operands: As for `forward`; those whose gradient is not wanted may be left out, but for gate, scale and weight.
        layer: As for `forward`.
        x_dtype: Dtype of x's gradient.

    Returns:
        The gradients of x and of the operands. Without a gate, and in the same dtype, that of the update is x's own:
        the same tensor.
    """
    update, gate, scale, _, weight, _ = operands
    width = residual.shape[-1]
    dx = torch.empty(residual.shape, dtype=x_dtype, device=residual.device)
    dupdate = None
    if update is not None:
        shared = gate is None and update.dtype == x_dtype
        dupdate = dx if shared else torch.empty(residual.shape, dtype=update.dtype, device=dx.device)
    samples, tokens = _rows(residual, operands)
    gate, scale = dense_rows(gate, scale)
    wanted = _wanted(operands)
    count = sum(wanted.values())
    config = configs.row_norm_backward(width, dx.dtype.itemsize, count)
    per_block = configs.rows_per_reduction(samples, tokens, config)
    blocks = triton.cdiv(tokens, per_block)
    sums = torch.empty(samples * blocks, count, width, dtype=torch.float32, device=dx.device) if count else None
    arguments = {
        "dout_ptr": dout.contiguous(),
        "dresidual_ptr": None if dresidual is None else dresidual.contiguous(),
        "residual_ptr": residual.contiguous(),
        "update_ptr": update.contiguous() if update is not None and gate is not None else None,
        "gate_ptr": gate,
        "scale_ptr": scale,
        "weight_ptr": weight,
        "stats_ptr": stats,
        "dx_ptr": dx,
        "dupdate_ptr": None if dupdate is dx else dupdate,
        "sums_ptr": sums,
        "rows": samples * tokens,
        "tokens": tokens,
        "blocks": blocks,
        "per_block": per_block,
        "gate_sample": 0 if gate is None else gate.stride(0),
        "scale_sample": 0 if scale is None else scale.stride(0),
    }
    by_sample = [t for t in (gate, scale) if t is not None]
    constants = {
        **tiling(width, config.parts),
        "ROWS": config.rows,
        "LAYER": layer,
        "ALIGN": alignment(*by_sample),
        **wanted,
    }
    launch(_backward, (samples * blocks,), arguments, constants, config)
    found = [None if t is None else torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in operands[1:]]
    if sums is not None:
        _add_up(sums, operands, Operands(None, *found), samples, blocks)
    return dx, Operands(dupdate, *found)


def add_up(sums: Tensor, out: Tensor) -> None:
    """The second stage of a sum over rows, in one launch and a fixed order.

    Args:
        sums: Those of the blocks, (blocks, 1, D), fp32.
        out: Where to write their sum, (D,).
    """
    _add_up(sums, Operands(bias=out), Operands(bias=out), 1, sums.shape[0])


def _add_up(sums: Tensor, operands: Operands, gradients: Operands, samples: int, blocks: int) -> None:
    scale, weight = dense_rows(operands.scale)[0], operands.weight
    if not any(t is not None for t in operands[1:4]):
        # Nothing is per sample: the blocks take the place of samples, and are added in tiles.
        samples, blocks = blocks * samples, 1
    config = configs.finish()
    rows = min(config.rows, configs.power_of_two(samples))
    arguments = {
        "sums_ptr": sums,
        "scale_ptr": scale,
        "weight_ptr": weight,
        "dgate_ptr": gradients.gate,
        "dscale_ptr": gradients.scale,
        "dshift_ptr": gradients.shift,
        "dweight_ptr": gradients.weight,
        "dbias_ptr": gradients.bias,
        "samples": samples,
        "blocks": blocks,
        "scale_sample": 0 if scale is None else scale.stride(0),
    }
    constants = {
        **_wanted(operands),
        "WIDTH": sums.shape[-1],
        "SAMPLES": rows,
        "BLOCKS": min(config.rows // rows, configs.power_of_two(blocks)),
        "COLUMNS": config.columns,
    }
    # Also where there are no rows: then the sums are 0.
    launch(_finish, (triton.cdiv(sums.shape[-1], config.columns),), arguments, constants, config)


def _wanted(operands: Operands) -> dict[str, bool]:
    """Which sums over the rows the backward kernel keeps."""
    return {
        "UNIT": operands.scale is not None or operands.weight is not None,
        "GATE": operands.gate is not None,
        "SHIFT": operands.shift is not None,
        "BIAS": operands.bias is not None,
    }


def _rows(x: Tensor, operands: Operands) -> tuple[int, int]:
    """Samples, and rows of a sample; all rows are of one sample where no operand is per sample."""
    if operands.gate is None and operands.scale is None and operands.shift is None:
        return 1, x.numel() // max(x.shape[-1], 1)
    return x.shape[0], x.shape[1]


def _by_sample(x: Tensor, samples: int) -> Tensor:
    """x as (samples, rows, D) with rows that are dense; copied where its strides do not fit."""
    x = x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
    if x.ndim != 3 or x.shape[0] != samples:
        x = x.reshape(samples, -1, x.shape[-1]) if x.numel() else x.new_empty(samples, 0, x.shape[-1])
    return x if x.stride(1) < _LONGEST_STRIDE else x.contiguous()
