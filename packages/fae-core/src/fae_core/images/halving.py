"""Batches that are halved where they do not fit in memory."""

from __future__ import annotations

import logging
from functools import cache

import torch

from fae_core.errors import FAEError

log = logging.getLogger("fae")


class HalvingBatch:
    """A batch that can be given back where it did not fit in memory.

    Attributes:
        indices: which samples it has.
    """

    def __init__(self, indices: list[int], owner: HalvingBatches) -> None:
        self.indices, self._owner = indices, owner

    def halve(self) -> None:
        """Have these samples again in batches of half the size. Raises FAEError for a single one."""
        self._owner.halve(self.indices)


class HalvingBatches:
    """Batches of indices, in order. One that is halved comes again in halves, and those after it are as small.

    Args:
        indices: which samples.
        size: how many of them a batch has at first.
    """

    def __init__(self, indices: list[int], size: int) -> None:
        self._pending, self._size, self._halved = list(indices), size, False

    def __iter__(self) -> HalvingBatches:
        return self

    def __next__(self) -> HalvingBatch:
        if not self._pending:
            raise StopIteration
        if self._halved:  # only now: while the error is handled its traceback holds the tensors that did not fit
            torch.cuda.empty_cache()
            self._halved = False
        taken, self._pending = self._pending[: self._size], self._pending[self._size :]
        return HalvingBatch(taken, self)

    def halve(self, indices: list[int]) -> None:
        """Put a batch back, to come again in halves.

        Raises:
            FAEError: the batch has one index.
        """
        if len(indices) == 1:
            raise FAEError("out of memory with one image at a time; use a smaller model or --device cpu")
        _log_halving(len(indices))
        self._halved = True
        self._size = max(1, len(indices) // 2)
        self._pending = indices + self._pending


@cache  # each size once: every group of a data set may be halved
def _log_halving(count: int) -> None:
    """Log that so many images did not fit."""
    log.warning("out of memory for %d images at once; going on with half as many", count)
