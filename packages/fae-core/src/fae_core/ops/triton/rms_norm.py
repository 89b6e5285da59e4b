"""RMSNorm over the last axis: one pass forward, one pass and a small sum backward.

Rows are held in registers, arithmetic is fp32. The weight's gradient is summed in two stages (each block over its own
rows, then over the blocks in a fixed order), so two runs agree bit for bit.
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
from fae_core.ops.triton.launch import alignment, launch


@triton.jit
def _row_starts(row, n1, n2, s0, s1, s2, STRIDED: tl.constexpr, ALIGN: tl.constexpr):
    """Where each row begins: rows count through three axes of sizes (any, n1, n2), or through one."""
    if STRIDED:
        outer, middle, inner = row // n2 // n1, row // n2 % n1, row % n2
        start = outer.to(tl.int64) * s0 + middle.to(tl.int64) * s1 + inner.to(tl.int64) * s2
    else:
        start = row.to(tl.int64) * s2
    return tl.multiple_of(start, ALIGN)


@triton.jit
def _forward(
    x_ptr, weight_ptr, y_ptr, rstd_ptr, rows, n1, n2, s0, s1, s2, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr, STRIDED: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)[None, :]
    valid = row < rows
    inside = valid[:, None] & (column < WIDTH)
    start = _row_starts(row, n1, n2, s0, s1, s2, STRIDED, ALIGN)
    x = tl.load(x_ptr + start[:, None] + column, mask=inside, other=0.0).to(tl.float32)
    rstd = tl.rsqrt(tl.sum(x * x, axis=1) / WIDTH + eps)
    y = x * rstd[:, None]
    if HAS_WEIGHT:
        y *= tl.load(weight_ptr + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    tl.store(y_ptr + row.to(tl.int64)[:, None] * WIDTH + column, y, mask=inside)
    tl.store(rstd_ptr + row, rstd, mask=valid)


@triton.jit
def _backward(
    dy_ptr, x_ptr, weight_ptr, rstd_ptr, dx_ptr, partial_ptr, rows, rows_per_block, n1, n2, s0, s1, s2,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr, STRIDED: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    column = tl.arange(0, BLOCK)[None, :]
    wide = column < WIDTH
    if HAS_WEIGHT:
        weight = tl.load(weight_ptr + column, mask=wide, other=0.0).to(tl.float32)
        total = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(0, rows_per_block, ROWS):
        row = block * rows_per_block + first + tl.arange(0, ROWS)
        valid = row < rows
        inside = valid[:, None] & wide
        start = _row_starts(row, n1, n2, s0, s1, s2, STRIDED, ALIGN)
        dense = row.to(tl.int64)[:, None] * WIDTH + column
        x = tl.load(x_ptr + start[:, None] + column, mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + dense, mask=inside, other=0.0).to(tl.float32)
        rstd = tl.load(rstd_ptr + row, mask=valid, other=0.0)[:, None]
        unit = x * rstd
        if HAS_WEIGHT:
            total += dy * unit
            dy *= weight
        along = tl.sum(dy * unit, axis=1)[:, None] / WIDTH
        tl.store(dx_ptr + dense, (dy - unit * along) * rstd, mask=inside)
    if HAS_WEIGHT:
        tl.store(partial_ptr + block.to(tl.int64) * WIDTH + column, tl.sum(total, axis=0)[None, :], mask=wide)


def forward(x: Tensor, weight: Tensor | None, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """RMSNorm over the last axis, and what its backward pass needs.

    Args:
        x: (..., D); copied unless it has at most four axes, of which the last is contiguous.
        weight: (D,), or None for no weight.
        eps: Added to the mean square.
        dtype: Dtype of y.

    Returns:
        (y, rstd): y contiguous, rstd in fp32, one per row.
    """
    rows, width = x.numel() // max(x.shape[-1], 1), x.shape[-1]
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    rstd = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    x, strides = _rows(x)
    config = configs.row_norm(width)
    launch(
        _forward,
        (triton.cdiv(rows, config.rows),),
        {"x_ptr": x, "weight_ptr": weight, "y_ptr": y, "rstd_ptr": rstd, "rows": rows, **strides, "eps": eps},
        _constants(x, weight, config.rows),
        config,
    )
    return y, rstd


def backward(dy: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor) -> tuple[Tensor, Tensor | None]:
    """Gradients of `forward`.

    Args:
        dy: Gradient of y, (..., D).
        x: As for `forward`.
        weight: As for `forward`.
        rstd: As `forward` returned it.

    Returns:
        (dx, dweight): dx contiguous, in x's dtype; dweight in the weight's, or None where there is no weight.
    """
    rows, width = x.numel() // max(x.shape[-1], 1), x.shape[-1]
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    x, strides = _rows(x)
    config = configs.row_norm_backward(width)
    per_block = triton.cdiv(triton.cdiv(rows, config.blocks), config.rows) * config.rows
    blocks = triton.cdiv(rows, per_block) if rows else 0
    partial = torch.empty(blocks, width, dtype=torch.float32, device=x.device) if weight is not None else None
    arguments = {"dy_ptr": dy.contiguous(), "x_ptr": x, "weight_ptr": weight, "rstd_ptr": rstd, "dx_ptr": dx}
    launch(
        _backward,
        (blocks,),
        {**arguments, "partial_ptr": partial, "rows": rows, "rows_per_block": per_block, **strides},
        _constants(x, weight, config.rows),
        config,
    )
    return dx, None if partial is None or weight is None else partial.sum(0).to(weight.dtype)


def _rows(x: Tensor) -> tuple[Tensor, dict[str, int]]:
    """x, copied where its strides do not fit, and the sizes and strides of its three leading axes."""
    if x.ndim > 4 or x.stride(-1) != 1:
        x = x.contiguous()
    if x.is_contiguous():
        return x, {"n1": 1, "n2": 1, "s0": 0, "s1": 0, "s2": x.shape[-1]}
    sizes, strides = (1, 1, 1, *x.shape[:-1])[-3:], (0, 0, 0, *x.stride()[:-1])[-3:]
    return x, {"n1": sizes[1], "n2": sizes[2], "s0": strides[0], "s1": strides[1], "s2": strides[2]}


def _constants(x: Tensor, weight: Tensor | None, rows: int) -> dict[str, int | bool]:
    width = x.shape[-1]
    return {
        "WIDTH": width,
        "BLOCK": configs.power_of_two(width),
        "ROWS": rows,
        "HAS_WEIGHT": weight is not None,
        "STRIDED": not x.is_contiguous(),
        "ALIGN": alignment(x),
    }
