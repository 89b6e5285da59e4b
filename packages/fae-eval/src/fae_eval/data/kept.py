"""Images that are measured by several networks and drawn or decoded once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fae_eval.data.samples import WHOLE, ArraySamples, FollowingSamples, Samples, Share, SourceSamples


class KeptSamples(FollowingSamples):
    """Samples whose first pass is kept in memory, as uint8, and given again: 3 H W bytes an image of this process.

    Args:
        samples: whose images they are; not to be read elsewhere meanwhile.
    """

    def __init__(self, samples: Samples) -> None:
        super().__init__(samples)
        self._kept: dict[tuple[int, Share], list[np.ndarray]] = {}

    @classmethod
    def of(cls, samples: Samples) -> Samples:
        """The same samples, kept where another pass would draw or decode latents again."""
        return samples if isinstance(samples, (SourceSamples, ArraySamples, cls)) else cls(samples)

    def batches(self, batch_size: int, share: Share = WHOLE) -> Iterator[np.ndarray]:
        known = self._kept.get((batch_size, share))
        if known is not None:
            yield from known
            return
        kept = []
        for images in self.samples.batches(batch_size, share):
            kept.append(images)
            yield images
        self._kept[batch_size, share] = kept
        self.follow()
