"""silu(gate) * up of packed (gate, up), and its gradient with the sums over the rows that the bias gets.

The projection that makes gate and up has a bias, whose gradient is the sum over the rows of what the backward kernel
writes. Torch reads all of that again for it. Here every block keeps the sums of its rows and columns, in fp32, and a
second kernel adds them up in a fixed order.
"""

# Triton compiles the functions under @triton.jit by its own rules: arguments become constants, and an `if` on one is
# decided when compiling.
# pyright: reportPossiblyUnboundVariable=false, reportArgumentType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fae_core.ops.triton import configs
from fae_core.ops.triton.launch import launch
from fae_core.ops.triton.row_norm import add_up
from fae_core.ops.triton.tiles import wide


@triton.jit
def _forward(x_ptr, y_ptr, rows, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    CHUNKS: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS
    row = (tl.program_id(0) // CHUNKS * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = (tl.program_id(0) % CHUNKS * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    there = row < rows
    if WIDTH % COLUMNS:
        there = there & (column < WIDTH)
    gate = wide(tl.load(x_ptr + row * (2 * WIDTH) + column, mask=there, other=0.0))
    up = wide(tl.load(x_ptr + row * (2 * WIDTH) + WIDTH + column, mask=there, other=0.0))
    tl.store(y_ptr + row * WIDTH + column, gate * up / (1.0 + tl.exp(-gate)), mask=there)


@triton.jit
def _backward(
    dy_ptr, x_ptr, dx_ptr, sums_ptr, rows, per_block,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    CHUNKS: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS
    block = tl.program_id(0) // CHUNKS
    column = (tl.program_id(0) % CHUNKS * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    first = block.to(tl.int64) * per_block
    count = tl.minimum(rows - first, per_block).to(tl.int32)
    dy_ptr += first * WIDTH
    x_ptr += first * (2 * WIDTH)
    dx_ptr += first * (2 * WIDTH)
    sum_gate, sum_up = tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((ROWS, COLUMNS), tl.float32)
    row = tl.arange(0, ROWS)[:, None]
    for _ in range(0, count, ROWS):
        there = row < count
        if WIDTH % COLUMNS:
            there = there & (column < WIDTH)
        gate = wide(tl.load(x_ptr + row * (2 * WIDTH) + column, mask=there, other=0.0))
        up = wide(tl.load(x_ptr + row * (2 * WIDTH) + WIDTH + column, mask=there, other=0.0))
        dy = wide(tl.load(dy_ptr + row * WIDTH + column, mask=there, other=0.0))
        sigmoid = 1.0 / (1.0 + tl.exp(-gate))
        dup = dy * gate * sigmoid
        dgate = dy * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
        tl.store(dx_ptr + row * (2 * WIDTH) + column, dgate, mask=there)
        tl.store(dx_ptr + row * (2 * WIDTH) + WIDTH + column, dup, mask=there)
        if sums_ptr is not None:
            sum_gate += dgate
            sum_up += dup
        row += ROWS
    if sums_ptr is not None:
        at = sums_ptr + block.to(tl.int64) * (2 * WIDTH) + column
        there = column < WIDTH
        tl.store(at, tl.sum(sum_gate, axis=0, keep_dims=True), mask=there)
        tl.store(at + WIDTH, tl.sum(sum_up, axis=0, keep_dims=True), mask=there)


def forward(x: Tensor) -> Tensor:
    """silu(gate) * up in one launch.

    Args:
        x: gate and up, (..., 2 * D), in that order.

    Returns:
        (..., D), contiguous, in x's dtype.
    """
    width = x.shape[-1] // 2
    y = torch.empty(*x.shape[:-1], width, dtype=x.dtype, device=x.device)
    rows, config = y.numel() // max(width, 1), configs.swiglu(width)
    grid = (triton.cdiv(rows, config.rows) * triton.cdiv(width, config.columns),)
    constants = {"WIDTH": width, "ROWS": config.rows, "COLUMNS": config.columns}
    launch(_forward, grid, {"x_ptr": x.contiguous(), "y_ptr": y, "rows": rows}, constants, config)
    return y


def backward(dy: Tensor, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Gradients of `forward`: one launch, and a second one for the bias.

    Args:
        dy: Gradient of the result.
        x: As for `forward`.
        bias: What the projection has added to x, (2 * D,), or None where its gradient is not wanted.

    Returns:
        The gradients of x, contiguous, and of the bias: the sum of x's over the rows.
    """
    width = x.shape[-1] // 2
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rows, config = dx.numel() // max(2 * width, 1), configs.swiglu_backward(width)
    chunks = triton.cdiv(width, config.columns)
    per_block = configs.rows_per_reduction(1, rows, config, chunks)
    blocks = triton.cdiv(rows, per_block)
    sums = None if bias is None else torch.empty(blocks, 1, 2 * width, dtype=torch.float32, device=x.device)
    arguments = {"dy_ptr": dy.contiguous(), "x_ptr": x.contiguous(), "dx_ptr": dx, "sums_ptr": sums}
    arguments |= {"rows": rows, "per_block": per_block}
    constants = {"WIDTH": width, "ROWS": config.rows, "COLUMNS": config.columns}
    launch(_backward, (blocks * chunks,), arguments, constants, config)
    if sums is None or bias is None:
        return dx, None
    dbias = torch.empty(bias.shape, dtype=bias.dtype, device=bias.device)
    add_up(sums, dbias)
    return dx, dbias
