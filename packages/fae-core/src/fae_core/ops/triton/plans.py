"""What a call allocates and launches, noted once and then done again without the Python that decided it.

A kernel's module computes sizes, strides, constants and a configuration, and triton's binder looks at every argument:
together several times the host's time of torch's own operators. All of it follows from the metadata of the inputs. So
the first call with certain metadata runs under a dispatch mode, which sees every allocation and view, and `launch`
notes what it starts; later calls allocate the same and start the same compiled kernels at the new addresses.

A call that computes anything else (a copy of a strided tensor, a sum in torch), or whose addresses are not aligned to
16 bytes, is not planned: it runs as it is written.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Results = tuple[Tensor | None, ...]
Slot = tuple[int, int]  # which input or allocation, and bytes from its start

_ALLOCATIONS = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})


@dataclass(frozen=True)
class Start:
    """A kernel that was launched.

    Attributes:
        compiled: What triton compiled; None in the interpreter.
        grid: Blocks along each axis.
        values: Arguments and constants, in the order of the kernel's parameters.
    """

    compiled: Any
    grid: tuple[int, ...]
    values: tuple[Any, ...]


_noted: contextvars.ContextVar[list[Start] | None] = contextvars.ContextVar("fae_noted_launches", default=None)


def is_planning() -> bool:
    """Whether a call is being planned."""
    return _noted.get() is not None


def note(start: Start) -> None:
    """Note a launch, where a call is being planned."""
    starts = _noted.get()
    if starts is not None:
        starts.append(start)


@dataclass(frozen=True)
class Plan:
    """A call that can be done again.

    Attributes:
        device: Index of the device.
        stream: Gives a device's current stream.
        allocations: Of each what makes it, its shape, strides and dtype.
        launches: Of each the launcher, whether it takes the arguments as one, the grid, what else it takes, the
            arguments, and which of them are addresses in which slot.
        results: Of each None, or its slot, and how it views it: shape, strides, offset; None: the allocation itself.
    """

    device: int
    stream: Callable[[int], int]
    allocations: tuple[tuple[Any, ...], ...]
    launches: tuple[tuple[Any, ...], ...]
    results: tuple[Any, ...]

    def run(self, inputs: list[Tensor], addresses: list[int]) -> Results:
        """Do the call again.

        Args:
            inputs: Those that are tensors.
            addresses: Of their data.
        """
        tensors = inputs
        for empty, shape, strides, dtype in self.allocations:
            made = empty(shape, strides, dtype)
            tensors.append(made)
            addresses.append(made.data_ptr())
        stream = self.stream(self.device)
        for launch, direct, (x, y, z), options, template, places in self.launches:
            values = template.copy()
            for place, slot, offset in places:
                values[place] = addresses[slot] + offset
            if direct:
                launch(x, y, z, stream, *options, values)
            else:
                launch(x, y, z, stream, *options, *values)
        return tuple(
            [
                None if r is None else tensors[r[0]] if r[1] is None else _view(tensors[r[0]], *r[1])
                for r in self.results
            ]
        )


def record(
    function: Callable[..., Results],
    inputs: tuple[Any, ...],
    tensors: list[Tensor],
    addresses: list[int],
    current: Callable[[], Any],
) -> tuple[Plan | None, Results]:
    """Run a function; returns its plan, None where it has none, and its results.

    Args:
        function: Launches kernels.
        inputs: Of the function.
        tensors: Those that are tensors.
        addresses: Of their data.
        current: Gives the current device, and what gives a device's current stream.
    """
    token = _noted.set([])
    try:
        with _Recorder(tensors, addresses) as recorder:
            results = function(*inputs)
        starts = _noted.get() or []
    finally:
        _noted.reset(token)
    if not (recorder.possible and starts):
        return None, results
    launches = [_launch(start, recorder) for start in starts]
    views = [None if r is None else _result(r, recorder) for r in results]
    if None in launches or any(v is None and r is not None for v, r in zip(views, results, strict=True)):
        return None, results
    device, stream = current()
    plan = Plan(
        device,
        stream,
        tuple((_empty(t.device), tuple(t.shape), t.stride(), t.dtype) for t in recorder.tensors[recorder.inputs :]),
        tuple(launch for launch in launches if launch is not None),
        tuple(views),
    )
    return plan, results


class _Recorder(TorchDispatchMode):
    """Sees what is allocated and viewed, and whether anything else is computed."""

    def __init__(self, tensors: list[Tensor], addresses: list[int]) -> None:
        super().__init__()
        self.tensors, self.addresses = list(tensors), list(addresses)
        self.inputs = len(tensors)
        self.kept: list[Tensor] = []  # views: while they live, no address is used twice
        self.slots: dict[int, Slot] = {}
        self.given: set[int] = set()  # allocations that are results as they are
        # Two inputs at one address could be told apart by nothing.
        self.possible = len(set(addresses)) == len(addresses) and all(t.numel() for t in tensors)
        self.possible &= not any(address & 15 for address in addresses)
        for slot, address in enumerate(addresses):
            self.slots[address] = (slot, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in _ALLOCATIONS:
            self._allocated(out)
        elif func.is_view and isinstance(args[0], Tensor):
            for view in out if isinstance(out, tuple | list) else (out,):
                self._viewed(args[0], view)
        elif name != "promote_types":
            self.possible = False
        return out

    def slot(self, tensor: Tensor) -> Slot | None:
        """Where a tensor's data are; None where that is unknown."""
        return self.slots.get(tensor.data_ptr())

    def _allocated(self, tensor: Tensor) -> None:
        if not tensor.numel() or tensor.data_ptr() & 15:
            self.possible = False
            return
        self.slots[tensor.data_ptr()] = (len(self.tensors), 0)
        self.tensors.append(tensor)

    def _viewed(self, base: Tensor, view: Tensor) -> None:
        origin = self.slot(base)
        if origin is None or not view.numel():
            self.possible = False
            return
        slot = (origin[0], origin[1] + view.data_ptr() - base.data_ptr())
        if self.slots.setdefault(view.data_ptr(), slot) != slot:
            self.possible = False
        self.kept.append(view)


def _launch(start: Start, recorder: _Recorder) -> tuple[Any, ...] | None:
    compiled, template, places = start.compiled, list(start.values), []
    if getattr(compiled, "packed_metadata", None) is None:
        return None
    for place, value in enumerate(start.values):
        if isinstance(value, Tensor):
            slot = recorder.slot(value)
            if slot is None:
                return None
            places.append((place, *slot))
            template[place] = 0
    grid = (*start.grid, 1, 1)[:3]
    return *_launcher(compiled, grid), template, tuple(places)


def _launcher(compiled: Any, grid: tuple[int, ...]) -> tuple[Any, bool, tuple[int, ...], tuple[Any, ...]]:
    """What starts a compiled kernel: triton's launcher, or what that calls in C, where it would add nothing.

    The first takes twice the second's time. Since triton 3.9 (`kernel_signature`).
    """
    run, hooks = compiled.run, (None, None, None)
    scratch = getattr(run, "global_scratch_size", 1) or getattr(run, "profile_scratch_size", 1)
    if scratch or getattr(run, "gsan_enabled", True) or not hasattr(run, "kernel_signature"):
        return run, False, grid, (compiled.function, compiled.packed_metadata, *hooks)
    flags = (run.launch_cooperative_grid, run.launch_pdl, compiled.packed_metadata)
    described = (run.arg_annotations, run.kernel_signature)
    return run.launch, True, grid, (compiled.function, *flags, *hooks, None, None, *described)


def _result(result: Tensor, recorder: _Recorder) -> tuple[Any, ...] | None:
    """How a plan gives a result; None where it cannot."""
    found = recorder.slot(result)
    if found is None:
        return None
    slot, offset = found
    base = recorder.tensors[slot]
    if base.dtype != result.dtype:
        return None
    if slot not in recorder.given and slot >= recorder.inputs and not offset and _places(base) == _places(result):
        recorder.tensors[slot] = base = result  # allocated as the caller sees it
        recorder.given.add(slot)
    if slot in recorder.given and not offset and (base.shape, base.stride()) == (result.shape, result.stride()):
        return slot, None
    elements = offset // result.element_size()
    return slot, (tuple(result.shape), result.stride(), elements)


def _places(tensor: Tensor) -> tuple[int, int]:
    """How many numbers a tensor has, and over how many it extends in memory."""
    return tensor.numel(), 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def _view(base: Tensor, shape: tuple[int, ...], strides: tuple[int, ...], elements: int) -> Tensor:
    return base.as_strided(shape, strides, base.storage_offset() + elements)


def _empty(device: torch.device) -> Callable[[Any, Any, torch.dtype], Tensor]:
    """Gives a tensor of a shape, strides and dtype on the current device of its kind.

    What torch.compile's generated code calls: half the host's time of torch.empty_strided.
    """
    found = getattr(torch._C._dynamo.guards, f"_empty_strided_{device.type}", None)  # pyright: ignore
    return found or (lambda shape, strides, dtype: torch.empty_strided(shape, strides, dtype=dtype, device=device))
