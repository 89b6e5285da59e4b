"""Images that a generator draws while they are measured: nothing is written, and none is drawn twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fae_core.errors import FAEError
from fae_core.models.load import load_generator
from fae_core.models.sample_options import with_guidance
from fae_core.random import SlotRandom
from fae_core.sampling.draw import choose_labels, draw_images
from fae_eval.data.samples import WHOLE, Samples, Share, batch_starts
from fae_eval.tokenizers import device_of, load_image_tokenizer, name_of


class GeneratedSamples(Samples):
    """Images of a generator through a decoder, the same that `fae sample` would write.

    Args:
        generator: run, model or checkpoint folder, or hub id, loaded only while its images are drawn; or an object.
        decoder: folder or hub id, or a tokenizer that decodes.
        count: how many images.
        labels: classes, as in `fae sample`.
        prompts: texts, for a generator of text.
        guidance: guidance scale, 1 is off; None for the generator's own.
        seed: of the noise and of random labels.
        options: further options of the generator's `sample`.
        device: of what is loaded; cuda where there is one.
        name: what a record calls the generator; None for its path, or the class of an object.

    Raises:
        LatentSpecMismatch: from `batches`, where generator and decoder are of different latents.
        FAEError: where the count is below 1, guidance is given twice, or the tokenizer does not decode.
    """

    preparation = "generated, rounded to uint8"

    def __init__(
        self,
        generator: Any,
        decoder: Any,
        count: int,
        *,
        labels: str = "equal",
        prompts: Sequence[str] = (),
        guidance: float | None = None,
        seed: int = 0,
        options: dict[str, Any] | None = None,
        device: str | None = None,
        name: str | None = None,
    ) -> None:
        if count < 1:
            raise FAEError(f"{count} is no number of images to generate")
        self.generator, self.count = generator, count
        self.decoder = load_image_tokenizer(decoder, device, needs_decode=True)
        self.wanted_labels, self.prompts, self.seed = labels, tuple(prompts), seed
        self.options = with_guidance(guidance, options or {})
        settings = "".join(f", {name} {value}" for name, value in self.options.items())
        about = f"{len(prompts)} prompts, " if prompts else ""
        self.origin = f"generator {name or name_of(generator)} ({about}labels {labels}, seed {seed}{settings})"

    def __len__(self) -> int:
        return self.count

    def batches(self, batch_size: int, share: Share = WHOLE) -> Iterator[np.ndarray]:
        generator = self.generator
        if isinstance(generator, (str, Path)):
            generator = load_generator(generator, device=device_of(self.decoder))
        self.decoder.spec.require(generator.spec, context=self.origin)
        chosen, _ = choose_labels(generator, self.wanted_labels, self.count, prompts=self.prompts, seed=self.seed)
        self.labels = None if self.prompts else chosen
        for start in batch_starts(self.count, batch_size, share):
            indices = list(range(start, min(self.count, start + batch_size)))
            numbers = [chosen[i] for i in indices]
            texts = [self.prompts[number] for number in numbers] if self.prompts else None
            condition = texts or torch.tensor(numbers, device=device_of(generator))
            yield draw_images(generator, self.decoder, condition, SlotRandom(self.seed, indices), self.options)
