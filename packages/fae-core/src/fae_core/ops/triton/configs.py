"""The static table of launch configurations of the kernels.

They were chosen by arithmetic, by what the compiler reports (registers, spills, shared memory:
`python tools/checks/kernels.py`) and, at the widths and heads of DiT-XL and the decoders, by times on an H200
(`python tools/bench/tune_kernels.py`). See docs/kernels.md.
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
"""Head dimensions that the fused attention kernel takes."""

MAX_FUSED_KEYS = 256
"""The most keys that the fused attention kernel takes: it holds all keys of a head."""


@dataclass(frozen=True)
class Config:
    """A launch configuration.

    Attributes:
        rows: Rows (tokens, queries) that a block holds together.
        warps: Warps of a block.
        stages: Stages of software pipelining.
        columns: Keys that a block holds together; 0 where there are none.
        blocks: Into which a reduction over rows is divided; 0 where there is none.
    """

    rows: int
    warps: int
    stages: int = 1
    columns: int = 0
    blocks: int = 0


# Four on each of an H100's 132 multiprocessors; some kernels take twice as many.
_REDUCTION_BLOCKS = 528


def row_norm(width: int) -> Config:
    """RMSNorm over rows of `width`: several a block where they are short, so that a thread moves 16 bytes or more."""
    rows = max(1, min(16, 1024 // power_of_two(width)))
    return Config(rows, 4 if rows * power_of_two(width) <= 2048 else 8)


def row_norm_backward(width: int) -> Config:
    """Gradients of RMSNorm over rows of `width`."""
    rows = max(1, min(16, 4096 // power_of_two(width)))
    return Config(rows, 8, blocks=2 * _REDUCTION_BLOCKS)


def adaln(width: int) -> Config:
    """AdaLN: one row of `width` a block."""
    return Config(1, 2 if power_of_two(width) <= 2048 else 8)


def adaln_backward(width: int) -> Config:
    """Gradients of adaLN over rows of `width`."""
    if power_of_two(width) <= 2048:
        return Config(1, 4, blocks=2 * _REDUCTION_BLOCKS)
    return Config(1, 8, blocks=_REDUCTION_BLOCKS)


def heads(head_dim: int) -> Config:
    """Norm and rotation of heads: rows are tokens."""
    return Config(max(4, 1024 // power_of_two(head_dim)), 4)


# Warps of the attention forward kernel. An sm_90 multiprocessor holds two blocks of one warp group each; with four
# warps the other two architectures spill registers in the loop.
_ATTENTION_WARPS: dict[Arch, int] = {"sm_80": 8, "sm_90": 4, "sm_100": 8, "interpreter": 4}


def attention(arch: Arch, keys: int) -> Config:
    """Attention, forward: a head's keys and values stay in shared memory, in tiles of `columns`; `rows` queries a step.

    Args:
        arch: Architecture of the device.
        keys: Number of keys of a head.
    """
    return Config(64, _ATTENTION_WARPS[arch], columns=max(16, min(128, power_of_two(keys))))


def attention_backward() -> Config:
    """Both backward kernels of attention: tiles of `rows` queries and `columns` keys."""
    return Config(64, 4, stages=2, columns=64)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n and at least 1."""
    return 1 << max(n - 1, 0).bit_length()
