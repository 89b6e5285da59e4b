"""The Frechet distance as a number to log while a generator trains (the entry-point group "fae.metrics")."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fae_eval.data.samples import open_samples
from fae_eval.extractors import load_extractor
from fae_eval.features import default_cache, extract
from fae_eval.metrics.frechet import frechet_distance
from fae_eval.studies.reference import gaussian, open_reference


class PreviewFrechet:
    """Frechet distance of samples to one reference, which is read once. Works in one process, whatever the training does.

    Called with batches of uint8 images (B, H, W, 3); returns {"preview_FD-<extractor>": distance}, or "preview_FID".
    """

    def __init__(self, reference: str, extractor: str, *, device: str = "cpu") -> None:
        self.extractor = load_extractor(extractor, device=device)
        cache = default_cache()
        self._reference = open_reference(reference, self.extractor, need_features=False, cache=cache)
        name = self.extractor.name
        self.name = "preview_FID" if self.extractor.official_inception else f"preview_FD-{name}"

    def __call__(self, images: Iterable[np.ndarray]) -> dict[str, float]:
        features = extract(open_samples(images), self.extractor)
        return {self.name: float(frechet_distance(self._reference.pool, mu2=gaussian(features.moments)))}
