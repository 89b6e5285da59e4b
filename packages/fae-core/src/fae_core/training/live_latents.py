"""Latents of images that are encoded when a batch needs them: no store to write, but the encoder runs in every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from fae_core.errors import DataError
from fae_core.images import ImageSource, load_batch
from fae_core.images.identity import Identity, images_identity
from fae_core.machine import available_threads
from fae_core.models.identity import model_identity
from fae_core.protocols import PosteriorTokenizer, Tokenizer, read_size
from fae_core.random import SlotRandom


class LiveLatents:
    """What a GeneratorTask needs of a LatentStore, from images and a tokenizer.

    A tokenizer with a `posterior` gives a new sample of it in every reading, as a store of distributions does.

    Args:
        source: the images.
        tokenizer: what encodes them.
        flip: mirror half of the images, a new half in every epoch, as reading from a store with mirror images does.
        threads: how many threads decode the images of a batch; None: as many as the process has cores.

    Raises:
        DataError: the tokenizer's latents have no statistics yet.
    """

    def __init__(
        self, source: ImageSource, tokenizer: Tokenizer, *, flip: bool = False, threads: int | None = None
    ) -> None:
        self.source, self.tokenizer, self.flip = source, tokenizer, flip
        self.threads = threads or available_threads()
        self.spec, self.folder = tokenizer.spec, "the encoded images"
        if not self.spec.is_normalized:
            raise DataError(
                "the tokenizer's latents have no statistics to be normalised by; train it, or encode a store"
            )
        self.labels = None if source.labels is None else np.asarray(source.labels)
        self.classes, self.blocks = source.classes, source.blocks
        self._device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.source)

    @property
    def identity(self) -> Identity:
        """Of the images and, where the spec has no fingerprint, of the tokenizer's weights."""
        weights = "" if self.spec.fingerprint else model_identity(self.tokenizer) or ""
        return images_identity(self.source, show=True).joined_with(weights)

    def to(self, device: torch.device | str) -> None:
        """Move the tokenizer to the device on which to encode.

        Args:
            device: Such as "cuda:0".
        """
        self._device = device
        cast("nn.Module", self.tokenizer).to(device)

    @torch.no_grad()
    def read(self, indices: Sequence[int], random: SlotRandom | None = None) -> tuple[Tensor, Tensor | None]:
        """Latents of some images, as `LatentStore.read` gives them.

        Args:
            indices: which images, (B,).
            random: B slots, for samples of a posterior and mirror images; without it a posterior's mean of the images
                as they are is read.

        Returns:
            Normalised latents (B, C, h, w), fp32 on the CPU, and labels (B,) or None.
        """
        images = load_batch(self.source, indices, read_size(self.tokenizer), threads=self.threads).to(self._device)
        if random is not None and self.flip:
            mirrored = (random.uniform((), "flip") < 0.5).to(self._device)
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
        if random is not None and isinstance(self.tokenizer, PosteriorTokenizer):
            z = self.spec.normalize(self.tokenizer.posterior(images).sample(random))
        else:
            z = self.tokenizer.encode(images)
        places = [self.source.place(index) for index in indices]
        labels = None if self.labels is None else torch.from_numpy(self.labels[np.asarray(places)])
        return z.float().cpu(), labels
