"""The shards of a latent store: mapped into memory, verified against the index, located by sample.

torch is not imported.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fae_core.errors import DataError
from fae_core.files import sha256_file
from fae_core.folders import store_shard
from fae_core.latent_store.format import DTYPES, TEXTS, Index, map_shard
from fae_core.spec import LatentSpec

_MOST_MAPS = 4096  # shards mapped at once; Linux allows 65,530 maps per process
_VERIFY_THREADS = 8


class Shards:
    """The tensors of a store's shards, for many threads of one process.

    Args:
        folder: The store's.
        index: Of the store.
        spec: Its latent space.
        verify: Whether `verify_touched` compares shards with their checksums.
    """

    def __init__(self, folder: Path, index: Index, spec: LatentSpec, verify: bool) -> None:
        self.folder, self.index, self.plan, self.spec = folder, index, index.plan, spec
        # Sample i is in the shard whose start is the last one at or before i.
        self._starts = np.cumsum([0, *(count for count, _, _ in index.shards)], dtype=np.int64)
        self._maps: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()
        self._verify, self._unverified = verify, set(range(self.plan.shards))
        self._verifying = threading.Lock()

    def locate(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shard of each sample, and its row there."""
        shards = np.searchsorted(self._starts, places, side="right") - 1
        return shards, places - self._starts[shards]

    def tensors(self, shard: int) -> dict[str, np.ndarray]:
        """The tensors of a shard; the maps of those used last are kept."""
        with self._lock:
            tensors = self._maps.get(shard)
            if tensors is None:
                tensors = self._open(shard)
                self._maps[shard] = tensors
                if len(self._maps) > _MOST_MAPS:
                    self._maps.popitem(last=False)
            else:
                self._maps.move_to_end(shard)
            return tensors

    def captions(self) -> list[str]:
        """The text of every sample, in order; "" where there is none."""
        counts = [count for count, _, _ in self.index.shards]
        self.verify_touched(np.flatnonzero(counts))
        return [
            text_of(self.tensors(shard), "caption", row) for shard, count in enumerate(counts) for row in range(count)
        ]

    def _open(self, shard: int) -> dict[str, np.ndarray]:
        """The tensors of a shard; raises DataError unless they are those that the index announces."""
        count, size, _ = self.index.shards[shard]
        path = self.folder / store_shard(shard)
        tensors = map_shard(path, size)
        kind = DTYPES[self.plan.dtype]
        for name in (*self.plan.latents(), "source", *(["label"] if self.plan.labels else [])):
            shape, dtype = ((count, *self.spec.shape), kind) if name in self.plan.latents() else ((count,), np.int64)
            if name not in tensors or tensors[name].shape != shape or tensors[name].dtype != dtype:
                raise DataError(f"{path} does not hold {name} of shape {shape}, as the index says")
        for kind in TEXTS:
            offsets, data = (tensors.get(f"{kind}_{part}") for part in ("offsets", "bytes"))
            if offsets is None and data is None:
                continue
            whole = offsets is not None and offsets.shape == (count + 1,) and offsets.dtype == np.int64
            if not whole or data is None or data.ndim != 1 or data.dtype != np.uint8:
                raise DataError(f"{path} does not hold a {kind} for each of its {count} samples")
        return tensors

    def verify(self, shards: Iterable[int]) -> None:
        """Compare shards with their checksums, in threads. Raises DataError naming the first that is damaged."""
        with ThreadPoolExecutor(_VERIFY_THREADS) as pool:
            for shard, damaged in zip(shards, pool.map(self._is_damaged, shards), strict=True):
                if damaged:
                    raise DataError(f"{self.folder / store_shard(shard)} is damaged: its checksum is not the index's")

    def _is_damaged(self, shard: int) -> bool:
        count, _, digest = self.index.shards[shard]
        if count == 0:
            return False
        self.tensors(shard)
        return sha256_file(self.folder / store_shard(shard)) != digest

    def verify_touched(self, shards: np.ndarray) -> None:
        """Verify those of some shards that have not been verified before."""
        if not self._verify or not self._unverified:
            return
        with self._verifying:  # a second thread waits for the first, and finds nothing left to do
            fresh = sorted(self._unverified.intersection(np.unique(shards).tolist()))
            if fresh:
                self.verify(fresh)
                self._unverified.difference_update(fresh)


def text_of(tensors: dict[str, np.ndarray], kind: str, row: int) -> str:
    """A sample's text of one kind; "" where the shard has none."""
    if f"{kind}_offsets" not in tensors:
        return ""
    low, high = tensors[f"{kind}_offsets"][row : row + 2]
    return tensors[f"{kind}_bytes"][low:high].tobytes().decode("utf-8", errors="replace")
