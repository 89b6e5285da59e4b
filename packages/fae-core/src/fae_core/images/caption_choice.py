"""Which of an image's captions is read, each time that the image is: by weights, from random numbers of its own.

STARFlow's data processing, which the paper follows, gives the captions of an image one list of weights for the whole
data set, such as 0.3 for the web page's text and 0.7 for a description, and draws one caption each time an image is
read (apple/ml-starflow, dataset.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fae_core.errors import DataError, InvalidSettings
from fae_core.images.captions import split_captions

_MOST_SHOWN = 60  # characters of a wrong setting


class CaptionChoice:
    """Draws a caption for a sample in an epoch: a pure function of (seed, sample, epoch).

    So it does not depend on batches, on the number of processes, or on whether a run was interrupted.

    Args:
        weights: one for each caption of a sample, in order, in any scale; all samples then have so many captions. None:
            a sample's captions are equally likely, however many it has.

    Raises:
        InvalidSettings: a weight is negative or not finite, or all are 0.
    """

    def __init__(self, weights: Sequence[float] | None = None) -> None:
        self.weights = None if weights is None else tuple(float(weight) for weight in weights)
        if self.weights is None:
            return
        wrong = next((weight for weight in self.weights if not 0 <= weight < math.inf), None)
        if wrong is not None:
            raise InvalidSettings(f"caption weights are finite numbers of at least 0, not {wrong:g}")
        if not 0 < sum(self.weights) < math.inf:
            raise InvalidSettings("caption weights need a sum above 0; they are all 0, or there are none")

    @classmethod
    def parse(cls, text: str | None) -> CaptionChoice:
        """From "0.3,0.7"; None for equal weights. Raises InvalidSettings for anything else."""
        if text is None:
            return cls()
        try:
            weights = [float(part) for part in text.split(",")]
        except ValueError:
            raise InvalidSettings(f"caption weights are numbers, such as 0.3,0.7, not {text[:_MOST_SHOWN]!r}") from None
        return cls(weights)

    def require(self, texts: Sequence[str], where: str) -> None:
        """Check that every sample has as many captions as there are weights.

        Args:
            texts: of the samples, as sources and stores give them.
            where: what errors call the data.

        Raises:
            DataError: one has another number.
        """
        if self.weights is None:
            return
        for sample, text in enumerate(texts):
            if (count := len(split_captions(text))) != len(self.weights):
                raise DataError(
                    f"{where}: sample {sample} has another number of captions ({count}) than there are weights "
                    f"({len(self.weights)}); give one weight for each caption"
                )

    def draw(self, texts: Sequence[str], samples: Sequence[int], epochs: Sequence[int], seed: int) -> list[str]:
        """A caption of each sample.

        Args:
            texts: (B,) of the samples, as sources and stores give them.
            samples: (B,) indices in the data.
            epochs: (B,) in which epoch each is read.
            seed: of the run.
        """
        import torch  # not above: weights are checked without it

        from fae_core.random import counter, derive_seed

        drawn = [0.0] * len(texts)
        for epoch in set(epochs):
            rows = [row for row, other in enumerate(epochs) if other == epoch]
            slots = torch.tensor([samples[row] for row in rows], device="cpu")
            numbers = counter.uniform(derive_seed(seed, "caption", epoch), slots, 1)[:, 0].tolist()
            for row, number in zip(rows, numbers, strict=True):
                drawn[row] = number
        return [self._chosen(split_captions(text), number) for text, number in zip(texts, drawn, strict=True)]

    def _chosen(self, captions: list[str], number: float) -> str:
        """The caption at a number in [0, 1) of the cumulated weights."""
        if self.weights is None:
            return captions[int(number * len(captions))]
        left = number * sum(self.weights)
        for caption, weight in zip(captions, self.weights, strict=True):
            if left < weight:
                return caption
            left -= weight
        # Rounding: the last one that can be drawn at all.
        return next(caption for caption, weight in zip(captions[::-1], self.weights[::-1], strict=True) if weight > 0)
