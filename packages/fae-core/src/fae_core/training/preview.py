"""What a generator makes while it trains: a grid of samples to look at and, if asked for, a distance to real images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fae_core import folders
from fae_core.errors import MissingPackage, UnknownName
from fae_core.images import save_grid, to_uint8
from fae_core.models.draw import draw_latents
from fae_core.models.load import load_decoder
from fae_core.plugins import load_plugins
from fae_core.protocols import Generator
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_core.training.preview_config import PreviewConfig

if TYPE_CHECKING:
    import numpy as np

_BATCH = 64


class GeneratorPreview:
    """Draws and measures samples of a generator.

    Args:
        config: what to draw and measure.
        spec: the generator's latent space.
        device: where to decode and measure.

    Raises:
        LatentSpecMismatch: the decoder is for latents of another space.
        MissingPackage: no installed package measures samples.
        UnknownName: no metric has the name that the settings give.
    """

    def __init__(self, config: PreviewConfig, spec: LatentSpec, device: str) -> None:
        self.config, self.device = config, device
        self.decoder = load_decoder(config.decoder, device=device)
        self.decoder.spec.require(spec, context=f"decoder {config.decoder}")
        self._metric = self._load_metric() if config.reference is not None else None

    def __call__(
        self, generator: Generator, conditions: Callable[[range], Any], folder: Path, step: int
    ) -> dict[str, float]:
        """Write step-NNNNNNNN.png, and measure samples if the settings ask for it.

        Args:
            generator: what to sample from.
            conditions: gives what `sample` takes, for some sample indices.
            folder: where to write.
            step: how many updates were made.

        Returns:
            What was measured, by name.
        """
        images = torch.cat(list(self._images(generator, conditions, self.config.count)))
        save_grid(images.float() / 255, folder / folders.preview_image(step), self.config.columns)
        if self._metric is None:
            return {}
        samples = self._images(generator, conditions, self.config.measured)
        return self._metric(batch.permute(0, 2, 3, 1).numpy() for batch in samples)

    def _images(self, generator: Generator, conditions: Callable[[range], Any], count: int) -> Iterator[Tensor]:
        """Batches of samples, uint8 (B, 3, H, W) on the CPU."""
        for start in range(0, count, _BATCH):
            indices = range(start, min(count, start + _BATCH))
            random = SlotRandom(self.config.seed, indices)
            z = draw_latents(generator, conditions(indices), random, self.config.options)
            yield to_uint8(self.decoder.decode(z.to(self.device))).cpu()

    def _load_metric(self) -> Callable[[Iterator[np.ndarray]], dict[str, float]]:
        """What measures batches of uint8 (B, H, W, 3)."""
        known = load_plugins("fae.metrics")
        if not known:
            raise MissingPackage("measuring previews", "fae-eval")
        if self.config.metric not in known:
            raise UnknownName("preview metric", self.config.metric, known)
        metric = known[self.config.metric].load()
        size = self.decoder.spec.image_shape
        return metric(self.config.reference, self.config.extractor, device=self.device, size=size)
