"""Starting kernels, and recording what would be started, so that the ahead-of-time check compiles just that."""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from fae_core.ops.triton import capability
from fae_core.ops.triton.configs import Arch, Config
from fae_core.ops.triton.plans import Start, is_planning, note

Grid = tuple[int, ...]
Argument = Tensor | int | float | None
TensorT = TypeVar("TensorT", Tensor, Tensor | None)


@dataclass(frozen=True)
class Launch:
    """One start of a kernel.

    Attributes:
        kernel: The function under `triton.jit`.
        grid: Blocks along each axis.
        arguments: By name: tensors, numbers, or None for an absent tensor.
        constants: By name: the values of `tl.constexpr`s.
        config: The launch configuration.
    """

    kernel: Any
    grid: Grid
    arguments: dict[str, Argument]
    constants: Mapping[str, int]
    config: Config


# The architecture that launches are recorded for, and the list of them.
_recording: contextvars.ContextVar[tuple[Arch, list[Launch]] | None] = contextvars.ContextVar(
    "fae_recording", default=None
)


@contextlib.contextmanager
def recording(arch: Arch) -> Iterator[list[Launch]]:
    """Within the block launchers run nothing: they take `arch`'s configurations and list what they would launch.

    Their tensors are expected on the meta device.

    Args:
        arch: The architecture to choose configurations for.
    """
    launches: list[Launch] = []
    token = _recording.set((arch, launches))
    try:
        yield launches
    finally:
        _recording.reset(token)


def architecture(device: torch.device) -> Arch:
    """The row of the table of configurations for a device: its compute capability, rounded down to one that has a row.

    12.0 (RTX 50) has the shared memory of 8.x, so it takes that row. While launches are recorded, their architecture.
    """
    record = _recording.get()
    if record is not None:
        return record[0]
    if device.type != "cuda":
        return "interpreter"
    found = capability(device.index) or 90
    return "sm_80" if found < 90 else "sm_90" if found < 100 else "sm_100" if found < 120 else "sm_80"


def launch(
    kernel: Any, grid: Grid, arguments: Mapping[str, Argument], constants: Mapping[str, int], config: Config
) -> None:
    """Start a kernel on the device of its tensors; nothing where the grid is empty.

    Vectors, which are weights, are copied where they have gaps. Of everything else the kernels take strides, or it is
    contiguous. The parameters are the attributes of a `Launch`.
    """
    arguments = {n: a.contiguous() if isinstance(a, Tensor) and a.ndim == 1 else a for n, a in arguments.items()}
    record = _recording.get()
    if record is not None:
        record[1].append(Launch(kernel, grid, arguments, constants, config))
        return
    if math.prod(grid) == 0:
        return
    device = next(a.device for a in arguments.values() if isinstance(a, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        # Multiplications and additions may fuse. This is explicit because triton's default changes in 3.10.
        options = {"num_warps": config.warps, "num_stages": config.stages, "enable_fp_fusion": True}
        if config.registers:
            options["maxnreg"] = config.registers
        compiled = kernel[grid](**arguments, **constants, **options)
    if is_planning():
        values = tuple({**arguments, **constants}[name] for name in kernel.arg_names) if compiled is not None else ()
        note(Start(compiled, grid, values))


def alignment(*tensors: Tensor) -> int:
    """The largest power of two, at most 16, that divides every stride but the last of the tensors.

    Args:
        *tensors: Those whose last stride is 1.
    """
    strides = [s for t in tensors for s, n in zip(t.stride()[:-1], t.shape[:-1], strict=True) if n > 1]
    return math.gcd(16, *strides)


def dense_rows(*tensors: TensorT) -> list[TensorT]:
    """The tensors, copied where their last stride is not 1."""
    return [t if t is None or t.stride(-1) == 1 else t.contiguous() for t in tensors]
