"""The static table of launch configurations of the kernels.

They were chosen by arithmetic and by what the compiler reports at the widths and heads of DiT-XL and the decoders:
registers, spills, instructions, bytes in flight (`python tools/checks/kernels.py`). See docs/kernels.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Arch = Literal["sm_80", "sm_90", "sm_100", "interpreter"]

MAX_WIDTH = 4096
"""The widest row that RMSNorm and adaLN hold in registers."""

MAX_HEAD_DIM = 256
"""The largest head dimension of the norm-and-rotation kernel."""

FUSED_HEAD_DIMS = (64, 72)
"""Head dimensions that the attention kernel takes."""


@dataclass(frozen=True)
class Config:
    """A launch configuration.

    Attributes:
        rows: Rows (tokens, queries) that a block holds together.
        warps: Warps of a block.
        stages: Stages of software pipelining.
        columns: Columns or keys that a block holds together; 0 where there are none.
        parts: Warps among which a row is divided.
        registers: The most that a thread may have; 0: as many as the compiler likes.
    """

    rows: int
    warps: int
    stages: int = 1
    columns: int = 0
    parts: int = 1
    registers: int = 0


# Blocks into which a reduction over rows is divided: four for each of an H100's 132 multiprocessors. It does not depend
# on the device, so that sums are the same to the bit on all of them.
_REDUCTION_BLOCKS = 528


def row_norm(width: int, itemsize: int) -> Config:
    """RMSNorm and adaLN over rows of `width`: a warp holds a row, up to 3 KB of it; narrow rows share a warp.

    Args:
        width: Columns of a row.
        itemsize: Bytes of a number of x.
    """
    return _warps_and_rows(width, 1536 * 2 // itemsize)


def row_norm_backward(width: int, itemsize: int, sums: int) -> Config:
    """Gradients of RMSNorm and adaLN: the more sums over the rows a block keeps, the less of a row a warp holds.

    Args:
        width: Columns of a row.
        itemsize: Bytes of a number of x.
        sums: How many sums over the rows there are.
    """
    return _warps_and_rows(width, (1536 if sums < 2 else 768 if sums < 4 else 576) * 2 // itemsize)


def _warps_and_rows(width: int, most: int) -> Config:
    parts = 1
    while -(-width // parts) > most:
        parts *= 2
    rows = max(1, 4 // parts) if width > 512 else min(64, 4096 // power_of_two(width))
    return Config(rows, max(4, parts), parts=parts)


def rows_per_block(samples: int, tokens: int, config: Config) -> int:
    """Rows of one sample that a block passes over, a few at a time: more where blocks fill the device anyway."""
    return config.rows * max(1, min(8, samples * tokens // (1024 * config.rows)))


def rows_per_reduction(samples: int, tokens: int, config: Config, side_by_side: int = 1) -> int:
    """Rows of one sample that a block adds up.

    Args:
        samples: Number of samples.
        tokens: Rows of a sample.
        config: The configuration.
        side_by_side: Blocks that share the same rows, each with other columns.
    """
    turns = -(-samples * tokens * max(1, side_by_side) // (_REDUCTION_BLOCKS * config.rows))
    return config.rows * max(1, min(turns, -(-tokens // config.rows)))


def finish() -> Config:
    """The second stage of sums over rows: tiles of `rows` blocks and `columns` columns."""
    return Config(128, 8, columns=16)


def heads(count: int, head_dim: int, warps: int = 4) -> Config:
    """Norm and rotation of heads: a block takes `rows` tokens and `columns` of the heads, about 9 KB of bf16.

    Args:
        count: Number of heads.
        head_dim: Their dimension.
        warps: Warps of a block: the gradient takes twice as many, for its sums over the tokens.
    """
    group = min(16, count & -count) if count else 1
    together = min(64, power_of_two(4608 // head_dim + 1) // 2)
    group = min(group, together)
    return Config(max(1, together // group), warps, columns=group)


def swiglu(width: int) -> Config:
    """SwiGLU over rows of `width` products: `rows` rows and `columns` of them a block."""
    columns = min(1024, power_of_two(width))
    return Config(2048 // columns, 4, columns=columns)


def swiglu_backward(width: int) -> Config:
    """Gradients of SwiGLU: rows pass through blocks that keep the sums of `columns` columns of gate and of up."""
    columns = min(512, power_of_two(width))
    return Config(1024 // columns, 4, columns=columns)


def attention(queries: int, keys: int) -> Config:
    """Attention: tiles of `rows` queries, past which go tiles of `columns` keys.

    Args:
        queries: Number of queries.
        keys: Number of keys.
    """
    rows, columns = (max(16, min(most, power_of_two(n))) for n, most in ((queries, 128), (keys, 64)))
    return Config(rows, 8 if rows == 128 else 4, stages=3, columns=columns, registers=128 if rows == 128 else 0)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n and at least 1."""
    return 1 << max(n - 1, 0).bit_length()
