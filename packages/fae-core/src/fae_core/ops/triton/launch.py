"""Starting kernels, and writing down what would be started: the ahead-of-time check compiles exactly what a call launches."""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fae_core.ops.triton import capability
from fae_core.ops.triton.configs import Arch, Config

Grid = tuple[int, ...]


@dataclass(frozen=True)
class Launch:
    """One kernel start. arguments: tensors, integers, floats, or None for an absent tensor; constants: `tl.constexpr`s."""

    kernel: Any
    grid: Grid
    arguments: dict[str, Tensor | int | float | None]
    constants: dict[str, int | bool | str]
    config: Config


@dataclass
class Recording:
    arch: Arch
    launches: list[Launch]


_recording: contextvars.ContextVar[Recording | None] = contextvars.ContextVar("fae_recording", default=None)


@contextlib.contextmanager
def recording(arch: Arch) -> Iterator[list[Launch]]:
    """Within the block launchers run nothing, take `arch`'s configurations, and list what they would launch.

    Give them tensors on the meta device.
    """
    record = Recording(arch, [])
    token = _recording.set(record)
    try:
        yield record.launches
    finally:
        _recording.reset(token)


def architecture(device: torch.device) -> Arch:
    """The row of the table of configurations for a device: its compute capability, rounded down to one that has a row.

    12.0 (RTX 50) has the shared memory of 8.x, so it takes that row.
    """
    record = _recording.get()
    if record is not None:
        return record.arch
    if device.type != "cuda":
        return "interpreter"
    found = capability(device.index) or 90
    return "sm_80" if found < 90 else "sm_90" if found < 100 else "sm_100" if found < 120 else "sm_80"


def launch(
    kernel: Any,
    grid: Grid,
    arguments: dict[str, Tensor | int | float | None],
    constants: dict[str, int | bool | str],
    config: Config,
) -> None:
    """Start `kernel` on the device of its tensors; nothing where the grid is empty.

    Vectors, which are weights, are copied where they have gaps: kernels take strides of everything else, or contiguous memory.
    """
    arguments = {n: a.contiguous() if isinstance(a, Tensor) and a.ndim == 1 else a for n, a in arguments.items()}
    record = _recording.get()
    if record is not None:
        record.launches.append(Launch(kernel, grid, arguments, constants, config))
        return
    if math.prod(grid) == 0:
        return
    device = next(a.device for a in arguments.values() if isinstance(a, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        # Multiplications and additions may fuse: said here because triton's own default changes in 3.10.
        kernel[grid](**arguments, **constants, num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=True)


def alignment(*tensors: Tensor) -> int:
    """The largest power of two, at most 16, that divides every stride but the last of tensors whose last stride is 1."""
    strides = [s for t in tensors for s, n in zip(t.stride()[:-1], t.shape[:-1], strict=True) if n > 1]
    return math.gcd(16, *strides)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n and at least 1."""
    return 1 << max(n - 1, 0).bit_length()
