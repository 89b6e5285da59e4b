"""Calls that are equal but for values and addresses: planned at the first, done again later by its plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fae_core.ops.triton.plans import Plan, Results, record

MOST = 4096
"""Keys that are remembered at once; past so many, all are forgotten."""


def describe(inputs: tuple[Any, ...], key: list[Any]) -> tuple[list[Tensor], list[int]]:
    """The tensors of a call, and the addresses of their data.

    Args:
        inputs: Of the call.
        key: Where all else is added that decides what the call does: its numbers, and its tensors' metadata.
    """
    tensors: list[Tensor] = []
    addresses: list[int] = []
    together = 0
    for x in inputs:
        if isinstance(x, Tensor):
            address = x.data_ptr()
            together |= address
            key += (x.shape, x.stride(), x.dtype, x.device, x.requires_grad)
            tensors.append(x)
            addresses.append(address)
        else:
            key.append(x)
    key.append(together & 15 == 0)
    return tensors, addresses


class Planned:
    """A function from tensors and numbers to results, which launches kernels; planned where it can be.

    Args:
        function: Its results are a pure function of its inputs' values, and its launches of their metadata.
        current: Gives the current device, and what gives a device's current stream; None: triton's.
    """

    def __init__(self, function: Callable[..., Results], current: Callable[[], Any] | None = None) -> None:
        self.function, self._current = function, current or _current
        self._calls: dict[tuple[Any, ...], Repeated] = {}

    def __call__(self, *inputs: Any, kept: tuple[Tensor | None, ...] = (), options: tuple[Any, ...] = ()) -> Results:
        """The function's results.

        Args:
            *inputs: Its first inputs.
            kept: Its next ones, of which nothing differs between calls but values, addresses and strides.
            options: Its last ones, the same for all calls.
        """
        key: list[Any] = []
        tensors, addresses = describe(inputs, key)
        together = 0
        for x in kept:
            if x is not None:
                address = x.data_ptr()
                together |= address
                key.append(x.stride())
                tensors.append(x)
                addresses.append(address)
        key.append(together & 15 == 0)
        inputs = (*inputs, *kept, *options)
        found = tuple(key)
        calls = self._calls.get(found)
        if calls is None:
            if len(self._calls) >= MOST:
                self._calls.clear()
            calls = self._calls[found] = self.repeated(tensors)
        return calls(inputs, tensors, addresses)

    def repeated(self, tensors: list[Tensor]) -> Repeated:
        """Calls of the function whose keys are equal.

        Args:
            tensors: Of one such call.
        """
        return Repeated(self.function, tensors[0].get_device(), self._current)


class Repeated:
    """Calls of a function with one key: written down at the first, done again later.

    Args:
        function: As of `Planned`.
        device: Index of the tensors' device; -1 on the CPU.
        current: As of `Planned`.
    """

    __slots__ = ("_current", "_device", "_function", "_plan", "_recorded")

    def __init__(self, function: Callable[..., Results], device: int, current: Callable[[], Any]) -> None:
        self._function, self._device, self._current = function, device, current
        self._plan: Plan | None = None
        self._recorded = False

    def __call__(self, inputs: tuple[Any, ...], tensors: list[Tensor], addresses: list[int]) -> Results:
        """The function's results.

        Args:
            inputs: Of the function.
            tensors: Those that are tensors; the list is used up.
            addresses: Of their data; used up as well.
        """
        if self._device >= 0 and self._device != torch._C._cuda_getDevice():
            with torch.cuda.device(self._device):
                return self(inputs, tensors, addresses)
        if self._plan is not None:
            return self._plan.run(tensors, addresses)
        if self._recorded:
            return self._function(*inputs)
        self._recorded = True
        self._plan, results = record(self._function, inputs, tensors, addresses, self._current)
        return results


def _current() -> tuple[int, Callable[[int], int]]:
    """The current device, and what gives its stream."""
    from triton import runtime

    driver: Any = runtime.driver.active
    return driver.get_current_device(), driver.get_current_stream
