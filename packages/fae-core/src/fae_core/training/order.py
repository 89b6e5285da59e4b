"""Which samples make up which batch: a pure function of (seed, step), with no state to save.

Positions run through the infinite sequence of epochs; each epoch visits every sample once, in an order given by a keyed
Feistel permutation, so that 10^8 samples need no table. Data that are fast to read only in blocks (tar shards, parquet
row groups) are shuffled in two levels: the blocks, and the samples within a window of blocks that follow each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from fae_core.random import derive_seed
from fae_core.random.permutation import permute


class SampleOrder:
    """The order of samples under a seed, epoch after epoch.

    Args:
        seed: of the permutations.
        samples: how many samples there are.
        blocks: sizes of the blocks that samples lie in, in order; None where reading is equally fast in any order.
        window: how many samples, at least, are mixed with each other; a window is two or more whole blocks.

    Raises:
        ValueError: the blocks do not hold `samples` samples.
    """

    def __init__(self, seed: int, samples: int, blocks: Sequence[int] | None = None, window: int = 8192) -> None:
        self.seed, self.samples, self.window = seed, samples, window
        self._in_blocks = blocks is not None
        self.blocks = np.asarray([samples] if blocks is None else blocks, dtype=np.int64)
        if self.blocks.sum() != samples:
            raise ValueError(f"blocks hold {self.blocks.sum()} samples, not {samples}")
        self._first_of_block = np.cumsum(self.blocks) - self.blocks
        self._windows = lru_cache(maxsize=2)(self._windows)  # a batch may lie across the end of an epoch

    def batch(self, step: int, batch_size: int) -> list[int]:
        """Sample indices of a step's global batch. Batches run across the ends of epochs.

        Args:
            step: the update, counted from 0.
            batch_size: samples per update, over all processes.
        """
        positions = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.uint64)
        epochs, offsets = positions // np.uint64(self.samples), positions % np.uint64(self.samples)
        indices = np.empty(batch_size, dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            indices[chosen] = self._place(offsets[chosen], int(epoch))
        return indices.tolist()

    def _place(self, offsets: np.ndarray, epoch: int) -> np.ndarray:
        """The samples at some places of an epoch."""
        key = derive_seed(self.seed, "epoch", epoch)
        if not self._in_blocks:
            return permute(offsets, self.samples, key)
        order, starts, bounds = self._windows(epoch)
        indices = np.empty(len(offsets), dtype=np.int64)
        owners = np.searchsorted(starts[bounds], offsets.astype(np.int64), side="right") - 1
        for owner in np.unique(owners):
            first, last = bounds[owner], bounds[owner + 1]
            chosen, base = owners == owner, starts[first]
            mixed = permute(
                offsets[chosen] - np.uint64(base), int(starts[last] - base), derive_seed(key, "window", int(owner))
            )
            place = np.searchsorted(starts[first : last + 1] - base, mixed, side="right") - 1
            block = order[first + place]
            indices[chosen] = self._first_of_block[block] + mixed - (starts[first + place] - base)
        return indices

    def _windows(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An epoch's order of blocks, the place where each of them starts in it, and the first block of each window."""
        count = len(self.blocks)
        key = derive_seed(self.seed, "epoch", epoch, "blocks")
        order = permute(np.arange(count, dtype=np.uint64), count, key)
        starts = np.concatenate([[0], np.cumsum(self.blocks[order])])
        bounds = [0]
        while bounds[-1] < count:
            enough = int(np.searchsorted(starts, starts[bounds[-1]] + self.window))
            bounds.append(min(count, max(enough, bounds[-1] + 2)))
        return order, starts, np.asarray(bounds)
