"""What is trained: the contract between a model's package and the loop."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from fae_core.random import SlotRandom

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Phase:
    """One optimiser and its loss. A GAN has two.

    A step computes the gradients of all phases, in order, and then updates all modules.

    Attributes:
        name: what logs call the phase.
        modules: names in `Task.modules` that this phase updates; all others are frozen meanwhile.
        loss: (batch, random) -> scalars, means over the batch's samples. "loss" is minimised; all are logged as
            `name/term`, or as `term` in a task of one phase.
        learning_rate: this phase's own, where it differs from the TrainConfig's.
        betas: this phase's own, where they differ from the TrainConfig's.
        start_step: the first step in which the phase runs.
        moments_from: a checkpoint of another run whose phase of this name has the moments that a new run begins with;
            None begins with zeros.
    """

    name: str
    modules: tuple[str, ...]
    loss: Callable[[Batch, SlotRandom], dict[str, Tensor]]
    learning_rate: float | None = None
    betas: tuple[float, float] | None = None
    start_step: int = 0
    moments_from: Path | None = None


class Task(ABC):
    """Models, data and losses. `load` and the losses take every random number from the SlotRandom they are given.

    Attributes:
        modules: all that is trained and checkpointed, by name.
        ema_modules: the names of those that keep a moving average.
        read_groups: sizes of the files or row groups that samples lie in, where reading out of order is slow.
        phases: the optimisers and their losses.
        micro_batch_matters: whether a loss is more than a mean over samples, so that it depends on which of them are
            computed on together. A resumed run must then have micro-batches of the same size.
        measured: numbers that `prepare` found out about the data, by name; config.yaml records them.
    """

    modules: dict[str, nn.Module]
    ema_modules: tuple[str, ...] = ()
    read_groups: Sequence[int] | None = None
    phases: list[Phase]
    micro_batch_matters: bool = False
    measured: Mapping[str, float] = MappingProxyType({})

    def __init_subclass__(cls, **options: Any) -> None:
        """Forward the earlier names of `prepare` and `read_groups`, for one release."""
        super().__init_subclass__(**options)
        for earlier, name in (("to", "prepare"), ("blocks", "read_groups")):
            if earlier in vars(cls) and name not in vars(cls):
                text = f"{cls.__name__}.{earlier} is now {name}; the old name goes with the next release"
                warnings.warn(text, DeprecationWarning, stacklevel=2)
                setattr(cls, name, vars(cls)[earlier])

    @property
    def exported(self) -> Sequence[nn.Module]:
        """The models that `export` writes, by whose weights a run is refused that could not; a task may name others."""
        return tuple(self.modules.values())

    @abstractmethod
    def __len__(self) -> int:
        """How many training samples there are."""

    @abstractmethod
    def load(self, indices: list[int], random: SlotRandom) -> Batch:
        """A batch on the CPU, a pure function of the arguments. Called ahead of time in a thread.

        Args:
            indices: which samples, (B,).
            random: B slots.
        """

    @abstractmethod
    def export(self, folder: Path, modules: dict[str, nn.Module]) -> None:
        """Write the trained model.

        Args:
            folder: a new empty folder.
            modules: as `self.modules`, with averaged weights where an average is kept.
        """

    def identity(self) -> dict[str, Any]:
        """What the run learns from, by content and not by path; called on the first process alone.

        config.yaml records it, and a resumed run must have the same.

        Returns:
            Hashes as text, or what `fae_core.images.identity` gives of images, by name; and under "latent_spec" a
            LatentSpec's fields.
        """
        return {}

    def preview(self, folder: Path, step: int, modules: dict[str, nn.Module]) -> dict[str, float] | None:
        """Write images to look at.

        Args:
            folder: where to write.
            step: how many updates were made.
            modules: as in `export`.

        Returns:
            Numbers to log, by name, if any.
        """
        return None

    def prepare(self, device: str) -> None:
        """Make ready what the task keeps outside `modules`; called once on every process, before the first step.

        Move frozen networks and statistics to the device, and load what previews need.

        Args:
            device: where the modules are trained.
        """
        return None
