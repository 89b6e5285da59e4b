"""A latent store as torch's data loaders take it: by index (map-style), or as a stream (iterable)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from fae_core.errors import DataError
from fae_core.latent_store.format import Sample
from fae_core.random import derive_seed
from fae_core.random.permutation import permute

if TYPE_CHECKING:
    from fae_core.latent_store.reader import LatentStore

_CHUNK = 256  # samples that a stream reads together


class SampleDataset(Dataset[Sample]):
    """A map-style data set that reads many samples at once, as DataLoader asks for them."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, indices: list[int]) -> list[Sample]:
        """The samples of a batch, read together."""

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __iter__(self) -> Iterator[Sample]:
        for places in epoch_places(len(self), _CHUNK):
            yield from self.__getitems__(places.tolist())


class LatentStream(IterableDataset[Sample]):
    """One epoch of a store, sample by sample. The workers of a DataLoader share it: each sample comes once.

    Args:
        store: The store.
        seed: Shuffles the samples, together with `epoch`; None keeps their order.
        epoch: Number of the epoch.
        rank: Number of this process, 0 to world - 1.
        world: Number of processes.
    """

    def __init__(
        self, store: LatentStore, *, seed: int | None = None, epoch: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.store = store
        self.seed, self.epoch, self.rank, self.world = seed, epoch, rank, world

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        worker_id, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        part, parts = self.rank * workers + worker_id, self.world * workers
        for places in epoch_places(len(self.store), _CHUNK, self.seed, self.epoch, part, parts):
            yield from self.store.__getitems__(places.tolist())


def epoch_places(
    count: int, batch_size: int, seed: int | None = None, epoch: int = 0, rank: int = 0, world: int = 1
) -> Iterator[np.ndarray]:
    """The indices of one epoch in batches. Together the processes see each once; the last batch may be smaller.

    Args:
        count: Samples in the data.
        batch_size: Samples per batch, at least 1.
        seed: Shuffles the samples, together with `epoch`; None keeps their order.
        epoch: Number of the epoch.
        rank: Number of this process, 0 to world - 1.
        world: Number of processes.

    Raises:
        DataError: Where the batch is empty, or there is no such process; another one has read its share.
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, it is {batch_size}")
    if not 0 <= rank < world:
        raise DataError(f"there is no share {rank} of {world} of a data set: rank counts from 0 to world - 1")
    for start in range(rank * batch_size, count, world * batch_size):
        places = np.arange(start, min(start + batch_size, count))
        yield places if seed is None else permute(places.astype(np.uint64), count, derive_seed(seed, "epoch", epoch))
