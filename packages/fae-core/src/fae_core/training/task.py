"""What is trained: the contract between a model's package and the loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fae_core.random import SlotRandom

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Phase:
    """One optimiser and its loss. A step computes every phase's gradient, in order, and then moves all; a GAN has two.

    modules: names in `Task.modules` that this phase updates; all others are frozen meanwhile.
    loss: (batch, random) -> scalars, means over the batch's samples; "loss" is minimised, all are logged as `name/term`
        (or `term` in a task of one phase).
    learning_rate, betas: this phase's own, where they differ from the TrainConfig's.
    start_step: the first step in which the phase runs.
    """

    name: str
    modules: tuple[str, ...]
    loss: Callable[[Batch, SlotRandom], dict[str, Tensor]]
    learning_rate: float | None = None
    betas: tuple[float, float] | None = None
    start_step: int = 0


class Task(ABC):
    """Models, data and losses. `load` and the losses take every random number from the SlotRandom they are given."""

    modules: dict[str, nn.Module]  # all that is trained and checkpointed
    ema_modules: tuple[str, ...] = ()  # those of them that keep a moving average
    read_groups: Sequence[int] | None = None  # sizes of the files or row groups that samples lie in, where order costs
    phases: list[Phase]

    @abstractmethod
    def __len__(self) -> int:
        """How many training samples there are."""

    @abstractmethod
    def load(self, indices: list[int], random: SlotRandom) -> Batch:
        """A batch on the CPU: a pure function of its arguments. Runs ahead of time in a thread."""

    @abstractmethod
    def export(self, folder: Path, modules: dict[str, nn.Module]) -> None:
        """Write the trained model into the new empty `folder`. `modules` hold averaged weights where they are kept."""

    def identity(self) -> dict[str, Any]:
        """What the run learns from, by content and not by path: hashes as text, and under "latent_spec" a LatentSpec's fields.
        Recorded in config.yaml and compared when the run is resumed. Called on the first process alone."""
        return {}

    def preview(self, folder: Path, step: int, modules: dict[str, nn.Module]) -> dict[str, float] | None:
        """Write pictures for a person to look at; return numbers to log, if any. `modules` as in `export`."""
        return None

    def prepare(self, device: str) -> None:
        """Make ready what the task keeps outside `modules`, once, before the first step and on every process: move frozen
        networks and statistics to the device, load what previews need."""
        return None
