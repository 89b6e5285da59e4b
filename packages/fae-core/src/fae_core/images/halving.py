"""Batches that are halved where they do not fit in memory."""

from __future__ import annotations

import torch

from fae_core.errors import FAEError


class HalvingBatch:
    def __init__(self, indices: list[int], owner: HalvingBatches) -> None:
        self.indices, self._owner = indices, owner

    def halve(self) -> None:
        self._owner.halve(self.indices)


class HalvingBatches:
    """Batches of indices; one that did not fit in memory is handed out again in halves, and so are those after it."""

    def __init__(self, indices: list[int], size: int) -> None:
        self._pending, self._size = list(indices), size

    def __iter__(self) -> HalvingBatches:
        return self

    def __next__(self) -> HalvingBatch:
        if not self._pending:
            raise StopIteration
        taken, self._pending = self._pending[: self._size], self._pending[self._size :]
        return HalvingBatch(taken, self)

    def halve(self, indices: list[int]) -> None:
        if len(indices) == 1:
            raise FAEError("out of memory with one image at a time; use a smaller model or --device cpu")
        torch.cuda.empty_cache()
        self._size = max(1, len(indices) // 2)
        self._pending = indices + self._pending
