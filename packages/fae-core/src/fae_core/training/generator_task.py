"""Training any Generator on any latent store of its latent space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from fae_core.errors import DataError
from fae_core.generator import Generator
from fae_core.random import SlotRandom
from fae_core.training.task import Batch, Phase, Task

if TYPE_CHECKING:
    from fae_core.latent_store import LatentStore


class GeneratorTask(Task):
    """The generator's own loss on normalised latents and labels.

    Raises LatentSpecMismatch unless the store holds what the generator was built for.
    """

    ema_modules = ("model",)

    def __init__(self, generator: Generator, store: LatentStore) -> None:
        generator.spec.require(store.spec, context=f"latent store {store.folder}")
        if len(store) == 0:
            raise DataError(f"{store.folder} holds no latents")
        self.generator, self.store = generator, store
        self.modules = {"model": generator}
        self.phases = [Phase("generator", ("model",), self._loss)]

    def __len__(self) -> int:
        return len(self.store)

    def load(self, indices: list[int], random: SlotRandom) -> Batch:
        z, labels = self.store.read(indices, random=random)
        # Without labels everything is class 0, which is also what `fae sample` asks of a generator of one class.
        labels = torch.zeros(len(indices)) if labels is None else torch.as_tensor(labels)
        return {"z": z, "labels": labels.long()}

    def export(self, folder: Path, modules: dict[str, nn.Module]) -> None:
        modules["model"].save_pretrained(folder)

    def _loss(self, batch: Batch, random: SlotRandom) -> dict[str, torch.Tensor]:
        return self.generator.loss(batch["z"], batch["labels"], random=random)
