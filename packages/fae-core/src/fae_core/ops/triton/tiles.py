"""Rows held in registers as two tiles of exact powers of two.

A row of 1152 columns is (4, ROWS, 256) and (1, ROWS, 128): its chunks of columns, the rows, and the columns of a chunk.
With as many warps as rows the compiler gives every warp one row. Then no lane is masked at such a width, a lane moves
16 bytes at a time, and a sum over a row takes shuffles only, neither shared memory nor barriers.

Where a row's numbers would not fit the registers of one warp, it is cut into PARTS of PART columns, each of which
stands as a row of its own in the tiles: (.., ROWS * PARTS, ..). Sums over a part then go to the others through shared
memory, one number each.
"""

# Triton compiles the functions under @triton.jit by its own rules: arguments become constants, and an `if` on one is
# decided when compiling.
# pyright: reportPossiblyUnboundVariable=false, reportArgumentType=false

from __future__ import annotations

import functools

import triton
import triton.language as tl

# Threads go along columns first and then along the axis of rows or heads, so that a warp has a row. Where two axes are
# equally contiguous triton takes the last first, but versions before 3.7 the first. To those the first axis is said to
# be less contiguous than the other: 0 promises nothing that could be wrong, and only the order is made of it.
_FIRST_AXIS = tl.constexpr(0 if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7) else 1)


@functools.cache
def tiling(width: int, parts: int) -> dict[str, int]:
    """The constants of a row's two tiles: the first has N1 columns in chunks of C1, the second N2 in chunks of C2.

    Args:
        width: Columns of a row.
        parts: Into how many parts it is cut.
    """
    part = width if parts == 1 else -(-width // (8 * parts)) * 8
    first = 1 << max((part - 1).bit_length() - 1, 0)
    second = 1 << max(part - first - 1, 0).bit_length()
    chunks = {"C1": min(first, 256), "C2": min(second, 256)}
    return {"WIDTH": width, "PART": part, "PARTS": parts, "N1": first, "N2": second, **chunks}


@triton.jit
def wide(x):
    """x in fp32. The compiler's own conversion takes three instructions for two bf16; as integers they take two."""
    if x.dtype == tl.bfloat16:
        return (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return x.to(tl.float32)


@triton.jit
def places(ptr, start, column, COUNT: tl.constexpr):
    """Addresses of COUNT columns side by side, of all that begins at `start`: (A, B, COUNT), B before A for threads."""
    return tl.max_contiguous(ptr + start + column, [_FIRST_AXIS, 1, COUNT])


@triton.jit
def _columns(FIRST: tl.constexpr, COUNT: tl.constexpr, CHUNK: tl.constexpr):
    return FIRST + tl.arange(0, COUNT // CHUNK)[:, None, None] * CHUNK + tl.arange(0, CHUNK)[None, None, :]


@triton.jit
def _inside(
    part, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr,
    FIRST: tl.constexpr, COUNT: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Which of a tile's columns the row has; only for tiles that are not exact."""
    column = _columns(FIRST, COUNT, CHUNK)
    return (column < PART) & (part[None, :, None] * PART + column < WIDTH)


@triton.jit
def _load(
    ptr, start, part, valid, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr,
    FIRST: tl.constexpr, COUNT: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    mask = valid[None, :, None]
    if FIRST + COUNT > PART or PART * PARTS > WIDTH:
        mask = mask & _inside(part, WIDTH, PART, PARTS, FIRST, COUNT, CHUNK)
    at = places(ptr, start[None, :, None], _columns(FIRST, COUNT, CHUNK), CHUNK)
    return tl.load(at, mask=mask, other=0.0)


@triton.jit
def _store(
    ptr, start, part, valid, x, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr,
    FIRST: tl.constexpr, COUNT: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    mask = valid[None, :, None]
    if FIRST + COUNT > PART or PART * PARTS > WIDTH:
        mask = mask & _inside(part, WIDTH, PART, PARTS, FIRST, COUNT, CHUNK)
    tl.store(places(ptr, start[None, :, None], _columns(FIRST, COUNT, CHUNK), CHUNK), x, mask=mask)


@triton.jit
def load_rows(
    ptr, start, part, valid, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr,
    N1: tl.constexpr, C1: tl.constexpr, N2: tl.constexpr, C2: tl.constexpr,
):  # fmt: skip
    """Both tiles of the parts of rows that begin at `start`; 0 in invalid rows and where the row has no column."""
    return (_load(ptr, start, part, valid, WIDTH, PART, PARTS, 0, N1, C1),
            _load(ptr, start, part, valid, WIDTH, PART, PARTS, N1, N2, C2))  # fmt: skip


@triton.jit
def store_rows(
    ptr, start, part, valid, x1, x2, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr,
    N1: tl.constexpr, C1: tl.constexpr, N2: tl.constexpr, C2: tl.constexpr,
):  # fmt: skip
    """Write both tiles of the parts of rows that begin at `start`."""
    _store(ptr, start, part, valid, x1, WIDTH, PART, PARTS, 0, N1, C1)
    _store(ptr, start, part, valid, x2, WIDTH, PART, PARTS, N1, N2, C2)


@triton.jit
def load_vector(
    ptr, part, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr,
    N1: tl.constexpr, C1: tl.constexpr, N2: tl.constexpr, C2: tl.constexpr,
):  # fmt: skip
    """Both tiles of a vector that every row meets, in its dtype."""
    start, valid = part * PART, part >= 0
    if PARTS == 1:
        start, valid = tl.zeros((1,), tl.int32), tl.full((1,), 1, tl.int1)
        part = start
    return load_rows(ptr, start, part, valid, WIDTH, PART, PARTS, N1, C1, N2, C2)


@triton.jit
def row_sums(x1, x2, ROWS: tl.constexpr, PARTS: tl.constexpr):
    """The sum over each row, (ROWS * PARTS,): every part has that of its row."""
    own, rest = tl.sum(x1, axis=0), tl.sum(x2, axis=0)
    # A lane adds its own columns up until the first tile has those of the second: then one sum goes across the lanes.
    if own.shape[1] > rest.shape[1]:
        own = tl.sum(tl.reshape(own, (own.shape[0], rest.shape[1], own.shape[1] // rest.shape[1])), axis=2)
    own = tl.sum(own + rest, axis=1)
    if PARTS > 1:
        whole = tl.sum(tl.reshape(own, (ROWS, PARTS)), axis=1)
        own = tl.reshape(tl.broadcast_to(whole[:, None], (ROWS, PARTS)), (ROWS * PARTS,))
    return own


@triton.jit
def store_per_row(ptr, row, part, valid, x):
    """Write one number for each row. Only the first of 32 lanes does, so that the number stays in the row's warp."""
    lane = tl.arange(0, 32)[None, None, :]
    first = valid[None, :, None] & (part[None, :, None] == 0) & (lane == 0)
    tl.store(ptr + row[None, :, None] + lane, tl.broadcast_to(x[None, :, None], first.shape), mask=first)


@triton.jit
def _store_column_sums(
    ptr, x, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr,
    FIRST: tl.constexpr, COUNT: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    CHUNKS: tl.constexpr = COUNT // CHUNK
    total = tl.sum(tl.reshape(x, (CHUNKS, ROWS, PARTS, CHUNK)), axis=1)
    part = tl.arange(0, PARTS)
    column = part[None, :, None] * PART + _columns(FIRST, COUNT, CHUNK)
    if FIRST + COUNT > PART or PART * PARTS > WIDTH:
        tl.store(ptr + column, total, mask=_inside(part, WIDTH, PART, PARTS, FIRST, COUNT, CHUNK))
    else:
        tl.store(ptr + column, total)


@triton.jit
def store_column_sums(
    ptr, x1, x2, ROWS: tl.constexpr, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr,
    N1: tl.constexpr, C1: tl.constexpr, N2: tl.constexpr, C2: tl.constexpr,
):  # fmt: skip
    """Write the sums over a block's rows to a vector."""
    _store_column_sums(ptr, x1, WIDTH, PART, PARTS, ROWS, 0, N1, C1)
    _store_column_sums(ptr, x2, WIDTH, PART, PARTS, ROWS, N1, N2, C2)
