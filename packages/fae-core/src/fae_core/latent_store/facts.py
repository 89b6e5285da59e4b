"""What a latent store says beside its latents: spec, labels, classes, captions, identity. torch is not imported."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path

import numpy as np

from fae_core.documents import open_regular
from fae_core.errors import DataError
from fae_core.files import sha256_file
from fae_core.folders import LATENT_SPEC, STORE_LABELS
from fae_core.latent_store.format import read_index
from fae_core.latent_store.shards import Shards
from fae_core.spec import LatentSpec


class StoreFacts:
    """A latent store without its latents, as commands look at it before torch is imported.

    Args:
        folder: The store's.
        verify: Compare each file with its checksum, once, before its first use.

    Attributes:
        folder: The store's.
        index: Its index.json.
        plan: What it was written by.
        spec: The latent space.

    Raises:
        DataError: Where the folder is not a finished store, or a file of it is not what was written.
    """

    def __init__(self, folder: str | Path, *, verify: bool = True) -> None:
        self.folder = Path(folder)
        self.index = read_index(self.folder)
        self.plan = self.index.plan
        self.spec = LatentSpec.load(self.folder)
        if verify and self.index.spec_sha256 not in ("", sha256_file(self.folder / LATENT_SPEC)):
            raise DataError(
                f"{self.folder / LATENT_SPEC} is not what the store was written with: damaged, or changed by hand"
            )
        self._verify = verify
        self._shards = Shards(self.folder, self.index, self.spec, verify)

    def __len__(self) -> int:
        return self.index.count

    @cached_property
    def identity(self) -> str:
        """SHA-256 of all that training reads: latents, labels, names of classes, spec. Independent of the folder."""
        content = [self.index.shards, self.index.labels_sha256, self.plan.classes, self.spec.to_dict()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @cached_property
    def labels(self) -> np.ndarray | None:
        """The label of every sample, (N,) int64, memory-mapped; None where the data have none."""
        if not self.plan.labels:
            return None
        try:
            with open_regular(self.folder / STORE_LABELS):  # numpy would wait for a pipe
                labels = np.load(self.folder / STORE_LABELS, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # numpy raises many types: for an empty file, a zip file, a bad header, ...
            raise DataError(f"{self.folder / STORE_LABELS} is damaged: {' '.join(str(error).split())[:200]}") from None
        if self._verify:
            self._verify_labels()
        if not isinstance(labels, np.ndarray) or labels.shape != (len(self),) or labels.dtype != np.int64:
            raise DataError(f"{self.folder / STORE_LABELS} does not hold one label for each of {len(self)} samples")
        return labels

    @property
    def classes(self) -> list[str] | None:
        """Class names by label; None where the data have none."""
        return None if self.plan.classes is None else list(self.plan.classes)

    @property
    def scale(self) -> float | None:
        """Root mean square of the normalised latents: about 1 where the spec's statistics are theirs, or like theirs.

        None with statistics of each position, which the index does not hold.
        """
        if self.spec.is_positional:
            return None
        (own_mean, own_std), mean, std = np.array([self.index.mean, self.index.std]), self.spec.mean, self.spec.std
        return float(np.sqrt(np.mean(((own_mean - mean) ** 2 + own_std**2) / np.square(std))))

    @cached_property
    def captions(self) -> list[str] | None:
        """The text of every sample, in order, read without the latents; None where the data have none.

        A sample's several captions are one text: see `fae_core.images.captions.split_captions`.
        """
        return self._shards.captions() if self.plan.captions else None

    def verify(self) -> None:
        """Compare every file with the checksums in the index; raises DataError naming the first that is damaged."""
        self._shards.verify(range(self.plan.shards))
        if self.plan.labels:
            self._verify_labels()

    def _verify_labels(self) -> None:
        if not (self.folder / STORE_LABELS).is_file():
            raise DataError(f"{self.folder / STORE_LABELS} is missing")
        if sha256_file(self.folder / STORE_LABELS) != self.index.labels_sha256:
            raise DataError(f"{self.folder / STORE_LABELS} is damaged: its checksum is not the index's")
