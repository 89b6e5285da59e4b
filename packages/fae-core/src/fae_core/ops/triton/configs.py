"""The static table of launch configurations: chosen by arithmetic, by what the compiler reports (registers, spills, shared memory;
`python tools/checks/kernels.py`) and, at the widths and heads of DiT-XL and the decoders, by times on an H200
(`python tools/bench/tune_kernels.py`). docs/kernels.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Arch = Literal["sm_80", "sm_90", "sm_100", "interpreter"]

SHARED_MEMORY = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448}
"""Bytes of shared memory that one block may have, by architecture."""

MAX_WIDTH = 4096
"""The widest row that RMSNorm and adaLN hold in registers."""

MAX_HEAD_DIM = 256
"""The largest head dimension of the norm-and-rotation kernel."""

FUSED_HEAD_DIMS = (64, 72)
MAX_FUSED_KEYS = 256
"""What the fused attention kernel holds at once: all keys of a head."""


@dataclass(frozen=True)
class Config:
    """rows: rows (tokens, queries) in flight; columns: keys in flight; warps, stages: of the launch; blocks: that a reduction over
    rows is cut into.
    """

    rows: int
    warps: int
    stages: int = 1
    columns: int = 0
    blocks: int = 0


# Four, or eight, on each of an H100's 132 multiprocessors.
_REDUCTION_BLOCKS = 528


def row_norm(width: int) -> Config:
    """RMSNorm: a few rows at a time where they are short, so that each thread moves 16 bytes or more."""
    rows = max(1, min(16, 1024 // _block(width)))
    return Config(rows, 4 if rows * _block(width) <= 2048 else 8)


def row_norm_backward(width: int) -> Config:
    rows = max(1, min(16, 4096 // _block(width)))
    return Config(rows, 8, blocks=2 * _REDUCTION_BLOCKS)


def adaln(width: int) -> Config:
    return Config(1, 2 if _block(width) <= 2048 else 8)


def adaln_backward(width: int) -> Config:
    if _block(width) <= 2048:
        return Config(1, 4, blocks=2 * _REDUCTION_BLOCKS)
    return Config(1, 8, blocks=_REDUCTION_BLOCKS)


def heads(head_dim: int) -> Config:
    """Norm and rotation of heads: rows are tokens."""
    return Config(max(4, 1024 // _block(head_dim)), 4)


# Warps of the attention forward kernel. Two blocks of one warp group each fit an sm_90 multiprocessor; with four warps the
# other two spill in the loop.
_ATTENTION_WARPS: dict[Arch, int] = {"sm_80": 8, "sm_90": 4, "sm_100": 8, "interpreter": 4}


def attention(arch: Arch, keys: int) -> Config:
    """Forward: a head's keys and values stay in shared memory in tiles of `columns`, the queries pass `rows` at a time."""
    return Config(64, _ATTENTION_WARPS[arch], columns=max(16, min(128, _block(keys))))


def attention_backward() -> Config:
    """Both backward kernels: tiles of queries and keys."""
    return Config(64, 4, stages=2, columns=64)


def _block(width: int) -> int:
    return 1 << max(width - 1, 0).bit_length()
