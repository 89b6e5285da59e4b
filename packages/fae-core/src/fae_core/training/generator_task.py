"""Training any Generator on the latents of its latent space: those of a store, or of images as they are encoded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from fae_core.errors import DataError
from fae_core.images.classes import require_labels_below
from fae_core.images.tell import log_on_first_process
from fae_core.models.pretrained import PretrainedModel
from fae_core.models.sample_options import check_options
from fae_core.protocols import Generator, Movable, class_count
from fae_core.random import SlotRandom
from fae_core.training.live_latents import LiveLatents
from fae_core.training.preview import GeneratorPreview
from fae_core.training.preview_config import PreviewConfig
from fae_core.training.task import Batch, Phase, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fae_core.latent_store import LatentStore

_USUAL_SCALES = (0.3, 3.0)  # of normalised latents, between which a store of few images may lie


class GeneratorTask(Task):
    """The generator's own loss on normalised latents and labels.

    Args:
        generator: what to train.
        store: its latents, with labels where they have any.
        preview: what to draw and measure while it trains.

    Raises:
        LatentSpecMismatch: the latents are of another space than the generator was built for.
        DataError: there are no latents, or a label is no class of the generator.
        InvalidFile: the preview has options that the generator lacks.
    """

    ema_modules = ("model",)

    def __init__(
        self, generator: Generator, store: LatentStore | LiveLatents, preview: PreviewConfig | None = None
    ) -> None:
        generator.spec.require(store.spec, context=f"latent store {store.folder}")
        if len(store) == 0:
            raise DataError(f"{store.folder} holds no latents")
        scale = getattr(store, "scale", None)
        if scale is not None and not _USUAL_SCALES[0] < scale < _USUAL_SCALES[1]:
            log_on_first_process(
                f"the latents of {store.folder}, normalised by their spec, have a root mean square of {scale:.3g}, and "
                "losses, noise and schedules are made for 1: the spec has no statistics or those of other images, or "
                "the posterior's noise is wider than its means, and `fae encode --posterior mean` leaves that out"
            )
        count = class_count(generator)
        require_labels_below(store.labels, count, str(store.folder))
        if preview is not None:
            check_options(generator, preview.options)
        self.generator, self.store = generator, store
        self._present = [0] if count is None or store.labels is None else _classes_present(store.labels)
        if count is not None and count > len(self._present):
            log_on_first_process(_absent(self._present, count, store))
        self.modules = {"model": cast("nn.Module", generator)}
        if store.classes is not None and count is not None:
            # Saved with the model, so that classes can be chosen by name.
            cast("PretrainedModel[Any]", generator).class_names = tuple(store.classes)
        self.phases = [Phase("generator", ("model",), self._loss)]
        self.read_groups = getattr(store, "blocks", None)  # of images; latents are cheap to read in any order
        self._preview_config = preview
        self._preview: GeneratorPreview | None = None

    def __len__(self) -> int:
        return len(self.store)

    def load(self, indices: list[int], random: SlotRandom) -> Batch:
        z, labels = self.store.read(indices, random=random)
        # Without labels all samples are of class 0, the one that `fae sample` draws from a generator of one class.
        labels = torch.as_tensor([0] * len(indices) if labels is None else labels, device="cpu")
        return {"z": z, "labels": labels.long()}

    def identity(self) -> dict[str, Any]:
        return {"latent_spec": self.store.spec.summary(), "latents": self.store.identity}

    def export(self, folder: Path, modules: dict[str, nn.Module]) -> None:
        cast("PretrainedModel[Any]", modules["model"]).save_pretrained(folder)

    def prepare(self, device: str) -> None:
        if isinstance(self.store, Movable):
            self.store.to(device)
        if self._preview_config is not None:  # loaded before the first step, so that a wrong path ends the run early
            self._preview = GeneratorPreview(self._preview_config, self.generator.spec, device)

    def preview(self, folder: Path, step: int, modules: dict[str, nn.Module]) -> dict[str, float] | None:
        if self._preview is None:
            return None
        generator = modules["model"].to(self._preview.device)
        assert isinstance(generator, Generator)
        return self._preview(generator, self.preview_conditions, folder, step)

    def preview_conditions(self, indices: range) -> Any:
        """What the preview's samples of these indices are conditioned on: the data's classes in turn, (B,) int64.

        Args:
            indices: Of the preview's samples, from 0.
        """
        assert self._preview is not None
        labels = [self._present[index % len(self._present)] for index in indices]
        return torch.tensor(labels, device=self._preview.device)

    def _loss(self, batch: Batch, random: SlotRandom) -> dict[str, torch.Tensor]:
        return self.generator.loss(batch["z"], batch["labels"], random=random)


def _classes_present(labels: NDArray[Any]) -> list[int]:
    """The classes that samples have, ascending, given the label of each."""
    return np.flatnonzero(np.bincount(np.asarray(labels))).tolist()


def _absent(present: list[int], count: int, store: LatentStore | LiveLatents) -> str:
    """What is to be known of classes without a sample: `fae sample` draws all classes, unless it is given some."""
    first = next(label for label in range(count) if label not in set(present))
    named = "" if store.classes is None or first >= len(store.classes) else f" ({store.classes[first]})"
    return (
        f"{store.folder} has samples of {len(present)} of the model's {count} classes; others, such as {first}{named}, "
        "are not trained: leave them out of --labels when samples are drawn"
    )
