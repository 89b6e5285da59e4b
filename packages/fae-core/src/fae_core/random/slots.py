"""Random numbers that belong to samples, not to processes.

A draw is a pure function of (seed, step, slot, stream), where the slot is a sample's place in the global batch
(training) or its index among the samples (generation). So a result does not depend on the batch size, on the number of
processes, on gradient accumulation, or on whether a run was interrupted. Numbers are drawn on the CPU, so that they do
not depend on the device; training on a GPU draws them there, which is faster (`on_device`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from fae_core.random import counter as counter_random
from fae_core.random.seeds import derive_seed


class SlotRandom:
    """Draws for a batch of slots. Each named stream is independent, so the order of calls does not matter.

    Every method returns one row for each slot. Drawing twice from one stream gives the same numbers, so each use needs
    a name of its own.

    Args:
        seed: of all draws.
        slots: (B,) integers.
        step: the training step, or 0.
        on_device: draw what is for a GPU there, in a few kernels instead of a loop over slots, with other numbers.
    """

    def __init__(self, seed: int, slots: Sequence[int] | Tensor, step: int = 0, *, on_device: bool = False) -> None:
        self.seed = int(seed)
        self.step = int(step)
        self.slots = [int(s) for s in slots]
        self.on_device = on_device
        self._slots_there: dict[torch.device, Tensor] = {}

    def __len__(self) -> int:
        return len(self.slots)

    def normal(self, shape: Sequence[int], stream: str, device: torch.device | str | None = None) -> Tensor:
        """Standard normal numbers (B, *shape), fp32.

        Args:
            shape: Of one row.
            stream: Name of the use; another name, other numbers.
            device: Where to put them; None: the CPU.
        """
        return self._draw(partial(torch.randn, dtype=torch.float32), counter_random.normal, shape, stream, device)

    def uniform(self, shape: Sequence[int], stream: str, device: torch.device | str | None = None) -> Tensor:
        """Uniform numbers (B, *shape) in [0, 1), fp32.

        Args:
            shape: Of one row.
            stream: Name of the use; another name, other numbers.
            device: Where to put them; None: the CPU.
        """
        return self._draw(partial(torch.rand, dtype=torch.float32), counter_random.uniform, shape, stream, device)

    def integers(
        self, high: int, shape: Sequence[int], stream: str, device: torch.device | str | None = None
    ) -> Tensor:
        """Uniform integers (B, *shape) in [0, high), int64.

        Args:
            high: One more than the largest, at least 1.
            shape: Of one row.
            stream: Name of the use; another name, other numbers.
            device: Where to put them; None: the CPU.
        """
        here, there = partial(torch.randint, high), partial(counter_random.integers, high=high)
        return self._draw(here, there, shape, stream, device)

    def select(self, rows: slice | Sequence[int]) -> SlotRandom:
        """The same draws, for some of the slots.

        Args:
            rows: Which rows of the batch, from 0.
        """
        slots = self.slots[rows] if isinstance(rows, slice) else [self.slots[r] for r in rows]
        return SlotRandom(self.seed, slots, self.step, on_device=self.on_device)

    def _draw(
        self,
        here: Callable[..., Tensor],
        there: Callable[[int, Tensor, int], Tensor],
        shape: Sequence[int],
        stream: str,
        device: torch.device | str | None,
    ) -> Tensor:
        """Draw slot by slot on the CPU by `here` (of a size and a generator), or together on a GPU by `there`."""
        if self.on_device and device is not None and torch.device(device).type != "cpu":
            key = derive_seed(self.seed, self.step, stream)
            return there(key, self._slots_on(torch.device(device)), math.prod(shape)).view(len(self), *shape)
        generator = torch.Generator("cpu")
        rows = []
        for slot in self.slots:
            generator.manual_seed(derive_seed(self.seed, self.step, slot, stream))
            rows.append(here(tuple(shape), generator=generator, device="cpu"))
        drawn = torch.stack(rows) if rows else here((0, *shape), generator=generator, device="cpu")
        return drawn if device is None else drawn.to(device)

    def _slots_on(self, device: torch.device) -> Tensor:
        """The slots as a tensor on a device, copied once."""
        if device in self._slots_there:
            return self._slots_there[device]
        there = torch.tensor(self.slots, dtype=torch.int64, device="cpu").to(device, non_blocking=True)
        if type(there) is Tensor:  # torch.export's is a fake one
            self._slots_there[device] = there
        return there
