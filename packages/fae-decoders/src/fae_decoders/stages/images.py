"""Images without features, for stages that learn from pixels: kept in memory where they fit, mirrored afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fae_core.commands.running import is_first_process
from fae_core.images import ImageSource, load_batch, to_uint8
from fae_core.progress import progress
from fae_core.random import SlotRandom
from fae_decoders.stages.config import DataConfig
from fae_decoders.stages.data import MOST_KEPT, statistics_rows


class ImageData:
    """Centre crops of a source at one size.

    Args:
        source: The images.
        size: (height, width) in pixels.
        config: How they are read.
    """

    def __init__(self, source: ImageSource, size: tuple[int, int], config: DataConfig) -> None:
        self.source, self.size, self.config = source, size, config
        self._kept: Tensor | None = None

    def __len__(self) -> int:
        return len(self.source)

    @property
    def read_groups(self) -> list[int] | None:
        """What `Task.read_groups` is: the source's, unless everything is kept in memory."""
        return None if self.fits else self.source.blocks

    @property
    def fits(self) -> bool:
        """Whether the images may be kept in memory."""
        bytes_ = len(self) * 3 * self.size[0] * self.size[1]
        return len(self) <= MOST_KEPT and bytes_ <= self.config.cache_gb * 2**30

    def prepare(self) -> None:
        """Read every image once, where they fit."""
        if self.fits and self._kept is None:
            kept = torch.empty(len(self), 3, *self.size, dtype=torch.uint8, device="cpu")
            for rows, images in self.batches(range(len(self)), "reading images"):
                kept[rows] = to_uint8(images)
            self._kept = kept

    def load(self, indices: list[int], random: SlotRandom) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] for a training batch, half of them mirrored where the settings say so."""
        images = self.read(indices)
        if self.config.flip:
            images = torch.where(random.uniform((1, 1, 1), "flip") < 0.5, images.flip(-1), images)
        return images

    def read(self, indices: list[int]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] as they are."""
        if self._kept is not None:
            return self._kept[indices].float() / 255
        return load_batch(self.source, indices, self.size, threads=self.config.threads)

    def spread(self) -> list[int]:
        """Indices of at most `statistics_images` images, evenly spread."""
        return statistics_rows(self.source, self.config.statistics_images)

    def batches(self, indices: range | list[int], description: str) -> Iterator[tuple[list[int], Tensor]]:
        """Batches of (indices, images on the CPU), in order."""
        with progress(len(indices), description, enabled=is_first_process()) as bar:
            for start in range(0, len(indices), self.config.read_batch):
                rows = list(indices[start : start + self.config.read_batch])
                yield rows, self.read(rows)
                bar.advance(len(rows))
