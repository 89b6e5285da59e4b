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
    """Frechet distance of samples to one reference, which is read once. It works in one process, also under torchrun.

    Args:
        reference: anything that `fae_eval.data.open_samples` takes, or an .npz with ADM's statistics.
        extractor: a name, see `load_extractor`.
        device: where the extractor runs.
        size: (h, w) of the samples, to which the reference is cropped; None takes it as it is.
    """

    def __init__(
        self, reference: str, extractor: str, *, device: str = "cpu", size: tuple[int, int] | None = None
    ) -> None:
        self.extractor = load_extractor(extractor, device=device)
        cache = default_cache()
        opened = open_reference(reference, self.extractor, need_features=False, size=size, cache=cache)
        assert opened is not None  # only other processes of a group get None
        self._reference = opened
        name = self.extractor.name
        self.name = "preview_FID" if self.extractor.official_inception else f"preview_FD-{name}"

    def __call__(self, images: Iterable[np.ndarray]) -> dict[str, float]:
        """{"preview_FD-<extractor>": distance}, or "preview_FID", of batches of uint8 images (B, H, W, 3)."""
        features = extract(open_samples(images), self.extractor)
        assert features is not None  # as above
        return {self.name: float(frechet_distance(self._reference.pool, mu2=gaussian(features.moments)))}
