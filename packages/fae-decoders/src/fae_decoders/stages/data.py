"""What all three stages learn from: images, and the frozen backbone's features of them.

Images are read at the encoder's `read_size`, as `fae encode` reads them; target images are crops of the images
themselves, which a backbone may read larger. Without augmentation features and target images never change, so they are
computed once and kept in memory where they fit; otherwise the backbone runs in every step, on the training device. A
store of features that was made before (fae_encoder/store/feature_store.py) replaces it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fae_core.commands.running import is_first_process
from fae_core.errors import FAEError
from fae_core.images import ImageSource, load_at_sizes, to_uint8
from fae_core.images.identity import images_identity
from fae_core.images.read_ahead import read_ahead
from fae_core.images.spread import spread_indices
from fae_core.latent_store.statistics import ChannelSums
from fae_core.processes import processes
from fae_core.progress import progress
from fae_core.random import SlotRandom
from fae_decoders.stages.config import DataConfig

if TYPE_CHECKING:
    from fae_encoder import FAEEncoder
    from fae_encoder.store.feature_store import FeatureStore

MOST_KEPT = 2**16  # images that are read before the first step, to be kept in memory


class StageData:
    """Features (after FeatureNorm) and target images of a source, kept or computed.

    Args:
        source: The images.
        encoder: Its backbone and feature norm make the features.
        config: How images are read.
        target_size: (height, width) of the images that a pixel decoder should make; None where none are needed.
        store: Features of the same images, read instead of computed; images are then read for targets alone.

    Raises:
        FAEError: A store together with `flip`, which would need features of mirrored images.
    """

    def __init__(
        self,
        source: ImageSource,
        encoder: FAEEncoder,
        config: DataConfig,
        target_size: tuple[int, int] | None = None,
        store: FeatureStore | None = None,
    ) -> None:
        if store is not None and config.flip:
            raise FAEError("a store holds features of the images as they are; leave data.flip off, or --features out")
        self.source, self.encoder, self.config, self.target_size = source, encoder, config, target_size
        self.store = store
        self.device: torch.device | str = "cpu"
        self._features: Tensor | None = None
        self._targets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.source)

    def identity(self) -> dict[str, Any]:
        """What the stage learns from, by content (see `Task.identity`)."""
        read = {"images": images_identity(self.source, show=True), "backbone": self.encoder.backbone.fingerprint()}
        if self.target_size not in (None, self.image_size):  # earlier versions made targets of what the backbone reads
            read["target_images"] = "as they are"
        return read if self.store is None else {**read, "features": self.store.store.identity}

    @property
    def fits(self) -> bool:
        """Whether features and targets may be kept in memory."""
        tokens = self.encoder.backbone.grid[0] * self.encoder.backbone.grid[1]
        pixels = 3 * self.target_size[0] * self.target_size[1] if self.target_size else 0
        per_image = 4 * tokens * self.encoder.backbone.dim + pixels
        few = len(self) <= MOST_KEPT
        return few and not self.config.flip and len(self) * per_image <= self.config.cache_gb * 2**30

    def to(self, device: torch.device | str) -> None:
        """Move the frozen encoder to the training device."""
        self.device = device
        self.encoder.to(device)

    @property
    def read_groups(self) -> list[int] | None:
        """What `Task.read_groups` is: the source's, unless everything is kept in memory."""
        images_are_read = self.store is None or self.target_size is not None
        return self.source.blocks if images_are_read and not self.fits else None

    @property
    def wants_norm(self) -> bool:
        """Whether the encoder standardises its features and their statistics have not been measured yet."""
        return self.encoder.config.standardize_features and self.encoder.feature_norm.is_identity

    def prepare(self) -> float:
        """One deterministic pass over the data: measure the encoder's FeatureNorm, keep features and targets.

        FeatureNorm is measured where `wants_norm`, features and targets are kept where they fit. What is not kept is
        shared among processes; the numbers do not depend on how many there are.

        Returns:
            The features' root mean square after normalisation.
        """
        if not self.fits:
            sums = self._shared_sums()
            if self.wants_norm:
                self.encoder.feature_norm.standardize(sums)
            return self._normalized_rms(sums)
        sums = ChannelSums.empty(self.encoder.backbone.dim)
        indices = range(len(self))
        here = torch.device("cpu")
        kept, targets = torch.empty(len(self), *self._feature_shape(), device=here), None
        if self.target_size:
            targets = torch.empty(len(self), 3, *self.target_size, dtype=torch.uint8, device=here)
        for rows, target, raw in self._inputs(indices, needs_targets=targets is not None):
            sums = sums + ChannelSums.of(raw.transpose(1, 2))
            kept[rows] = raw.float().cpu()
            if targets is not None:
                assert target is not None  # asked for
                targets[rows] = to_uint8(target).cpu()
        if self.wants_norm:
            self.encoder.feature_norm.standardize(sums)
        for rows in self._chunks(indices):
            kept[rows] = self._norm(kept[rows])
        self._features, self._targets = kept, targets
        return self._normalized_rms(sums)

    def raw_rms(self) -> float:
        """Root mean square of the backbone's features before FeatureNorm, over as many images as `prepare` takes."""
        sums = self._shared_sums()
        return float((sums.variance + sums.mean**2).mean() ** 0.5)

    def _shared_sums(self) -> ChannelSums:
        """Sums of raw features of all images that fit, or of `norm_images`; processes share the batches."""
        most = len(self) if self.fits else self.config.norm_images
        chunks = list(self._chunks(statistics_rows(self.source, most)))
        with processes(str(self.device)) as group:
            mine = [row for chunk in chunks[group.rank :: group.world_size] for row in chunk]
            found = [
                ChannelSums.of(raw.transpose(1, 2)).to_dict() for _, _, raw in self._inputs(mine, needs_targets=False)
            ]
            parts = group.gather(found)
        sums = ChannelSums.empty(self.encoder.backbone.dim)
        for number in range(len(chunks)):  # in the order of the batches, whichever process read them
            sums = sums + ChannelSums.from_dict(parts[number % len(parts)][number // len(parts)])
        return sums

    def spread(self) -> list[int]:
        """Indices of at most `statistics_images` images, evenly spread."""
        return statistics_rows(self.source, self.config.statistics_images)

    @torch.no_grad()
    def _inputs(
        self, indices: range | list[int], *, needs_targets: bool
    ) -> Iterator[tuple[list[int], Tensor | None, Tensor]]:
        """Batches of (indices, target images or None, raw features), in order."""
        if self.store is None:
            for rows, images, target in self._images(indices, "features of the data"):
                yield rows, target, self.raw_features(images)
        elif needs_targets:
            for rows, _, target in self._images(indices, "images of the data"):
                yield rows, target, self.store.read(rows)
        else:
            for rows in self._chunks(indices):
                yield rows, None, self.store.read(rows)

    def _images(self, indices: range | list[int], description: str) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Batches of (indices, images on the training device, target images on the CPU), in order."""
        with progress(len(indices), description, enabled=is_first_process()) as bar, torch.no_grad():
            for rows, (images, target) in read_ahead(self.read, self._chunks(indices), threads=1, ahead=1):
                yield rows, images.to(self.device), target
                bar.advance(len(rows))

    def read(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Images as the backbone reads them, and target images, on the CPU; the same twice without a target size.

        Args:
            rows: Indices of B images.

        Returns:
            Two tensors (B, 3, H, W) in [0, 1].
        """
        return load_at_sizes(
            self.source, rows, self.image_size, self.target_size or self.image_size, threads=self.config.threads
        )

    def feature_batches(self, indices: range | list[int], description: str) -> Iterator[Tensor]:
        """Features (B, N, D) of some images in order, from memory or computed."""
        if self._features is None and self.store is None:
            yield from (self.features(images) for _, images, _ in self._images(indices, description))
            return
        for rows in self._chunks(indices):
            yield self._known_features(rows).to(self.device)

    def load(self, indices: list[int], random: SlotRandom) -> dict[str, Tensor]:
        """A CPU batch for `Task.load`.

        Args:
            indices: Of the images.
            random: Decides which images are mirrored.

        Returns:
            "features" (B, N, D) where they are known, else "images" (B, 3, H, W); "target" where images are to be
            made.
        """
        known: dict[str, Tensor] = {}
        if self._features is not None or self.store is not None:
            known["features"] = self._known_features(indices)
            if self._targets is not None:
                known["target"] = self._targets[indices].float() / 255
            if self._targets is not None or self.target_size is None:
                return known
        images, target = self.read(indices)
        if known:
            return {**known, "target": target}
        if self.config.flip:
            mirrored = random.uniform((1, 1, 1), "flip") < 0.5
            images, target = (torch.where(mirrored, x.flip(-1), x) for x in (images, target))
        return {"images": images, **({"target": target} if self.target_size else {})}

    @torch.no_grad()
    def batch_features(self, batch: dict[str, Tensor]) -> Tensor:
        """The features (B, N, D) of a batch from `load`, on its device."""
        return batch["features"] if "features" in batch else self.features(batch["images"])

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) at which images are read."""
        return self.encoder.read_size

    @torch.no_grad()
    def raw_features(self, images: Tensor) -> Tensor:
        """The backbone's features (B, N, D) before FeatureNorm."""
        return self.encoder.backbone(images)

    def features(self, images: Tensor) -> Tensor:
        """Features (B, N, D) of images (B, 3, H, W)."""
        return self._norm(self.raw_features(images))

    @torch.no_grad()
    def _norm(self, raw: Tensor) -> Tensor:
        """FeatureNorm of raw features, returned on their device."""
        norm = self.encoder.feature_norm
        return norm(raw.to(norm.mean.device)).to(raw.device)

    def _known_features(self, rows: list[int]) -> Tensor:
        """Features (B, N, D) on the CPU, from memory or the store."""
        if self._features is not None:
            return self._features[rows]
        assert self.store is not None
        return self._norm(self.store.read(rows))

    def _feature_shape(self) -> tuple[int, int]:
        """(N, D)."""
        height, width = self.encoder.backbone.grid
        return height * width, self.encoder.backbone.dim

    def _chunks(self, indices: range | list[int]) -> Iterator[list[int]]:
        """Indices in batches of `read_batch`."""
        for start in range(0, len(indices), self.config.read_batch):
            yield list(indices[start : start + self.config.read_batch])

    def _normalized_rms(self, raw: ChannelSums) -> float:
        """Root mean square of features after FeatureNorm, given the sums of raw ones."""
        norm = self.encoder.feature_norm
        mean, std = (table.detach().cpu().double().numpy() for table in (norm.mean, norm.std))
        second_moment = (raw.variance + (raw.mean - mean) ** 2) / std**2
        return float(second_moment.mean() ** 0.5)


def statistics_rows(source: ImageSource, most: int) -> list[int]:
    """Indices of at most `most` images, evenly spread.

    Of a source in blocks whole blocks are taken, so that a few shards are read instead of a little of each.
    """
    total, blocks = len(source), source.blocks
    count = min(total, most)
    if blocks is None or count == total:
        return spread_indices(total, most)
    starts = list(itertools.accumulate(blocks, initial=0))
    chosen = min(len(blocks), -(-count * len(blocks) // total))
    picked = spread_indices(len(blocks), chosen)
    return [i for block in picked for i in range(starts[block], starts[block + 1])][:count]
