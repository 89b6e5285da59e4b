"""LatentStore: reading latents back, memory-mapped, normalised, in any order, by any number of threads and processes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fae_core.documents import open_regular
from fae_core.errors import DataError
from fae_core.files import sha256_file
from fae_core.folders import LATENT_SPEC, STORE_LABELS, store_shard
from fae_core.latent_store.format import LATENT_TYPES, NUMPY_TYPES, TEXTS, Sample, map_shard, read_index
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec

_MOST_MAPS = 4096  # shards mapped at once; Linux allows 65,530 maps per process
_VERIFY_THREADS = 8
_CHUNK = 32  # samples converted and normalised while they are in the processor's cache


class LatentStore:
    """An encoded data set. len(store), store[i] -> Sample, store.read(indices) -> (z, labels).

    folder: the store's. spec: the space that the caller has; raises LatentSpecMismatch where the store holds another.
    sample: draw from the posterior where the store keeps it and `read` is given `random`; else its mean is returned.
    verify: compare each shard with its checksum when it is first touched, once per opened store: some 0.5 seconds a gigabyte.
    Raises DataError where the folder is no finished store, or a file of it is not what was written. Opening reads no latents;
    a store of 10^8 samples opens in seconds and costs some megabytes.
    """

    def __init__(
        self, folder: str | Path, *, spec: LatentSpec | None = None, sample: bool = True, verify: bool = True
    ) -> None:
        self.folder = Path(folder)
        self.index = read_index(self.folder)
        self.plan = self.index.plan
        self.spec = LatentSpec.load(self.folder)
        if verify and self.index.spec_sha256 not in ("", sha256_file(self.folder / LATENT_SPEC)):
            raise DataError(
                f"{self.folder / LATENT_SPEC} is not what the store was written with: damaged, or changed by hand"
            )
        if spec is not None:
            spec.require(self.spec, context=f"latent store {folder}")
        self.sample = sample and self.plan.posterior == "distribution"
        # Sample i lies in the shard whose start is the last one at or before i.
        self._starts = np.cumsum([0, *(count for count, _, _ in self.index.shards)], dtype=np.int64)
        self._maps: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()
        self._verify, self._unverified = verify, set(range(self.plan.shards))
        self._verifying = threading.Lock()

    def __len__(self) -> int:
        return self.index.count

    def __getitem__(self, index: int) -> Sample:
        index = self._check([index])[0]
        z, labels = self.read([index])
        shard, row = self._locate(index)
        tensors = self._shard(shard)
        caption = _text(tensors, "caption", row) if self.plan.captions else None
        label = None if labels is None else int(labels[0])
        return Sample(z[0], label, _text(tensors, "name", row), caption, int(tensors["source"][row]))

    def __getstate__(self) -> dict:
        # Maps and locks stay in their process.
        return {"folder": self.folder, "sample": self.sample, "verify": self._verify}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["folder"], sample=state["sample"], verify=state["verify"])

    @cached_property
    def identity(self) -> str:
        """SHA-256 of all that the store says to who trains on it, wherever it lies: latents, labels, names of classes, spec."""
        said = [self.index.shards, self.index.labels_sha256, self.plan.classes, self.spec.to_dict()]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    @cached_property
    def labels(self) -> np.ndarray | None:
        """(N,) int64, memory-mapped; None where the data have none."""
        if not self.plan.labels:
            return None
        try:
            with open_regular(self.folder / STORE_LABELS):  # numpy would wait for a pipe
                labels = np.load(self.folder / STORE_LABELS, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # numpy has its own for an empty file, a zip, a header that is no Python, ...
            raise DataError(f"{self.folder / STORE_LABELS} is damaged: {' '.join(str(error).split())[:200]}") from None
        if self._verify:
            self._verify_labels()
        if not isinstance(labels, np.ndarray) or labels.shape != (len(self),) or labels.dtype != np.int64:
            raise DataError(f"{self.folder / STORE_LABELS} does not hold one label for each of {len(self)} samples")
        return labels

    @property
    def classes(self) -> list[str] | None:
        """Class names by label, or None."""
        return None if self.plan.classes is None else list(self.plan.classes)

    @cached_property
    def captions(self) -> list[str] | None:
        """The caption of every sample, in their order, read without the latents; None where the data have none."""
        if not self.plan.captions:
            return None
        counts = [count for count, _, _ in self.index.shards]
        self._verify_touched(np.flatnonzero(counts))
        return [_text(self._shard(shard), "caption", row) for shard, count in enumerate(counts) for row in range(count)]

    def read(
        self,
        indices: Sequence[int] | np.ndarray | Tensor | slice,
        random: SlotRandom | None = None,
        *,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Normalised latents (B, C, h, w) fp32 and labels (B,) int64 (None where there are none).

        out: an fp32 tensor of that shape to fill, such as pinned memory. Reusing one is several times faster for batches
        beyond 32 MiB, for which every call would otherwise ask the system for fresh pages.

        random: one slot per index. It draws a fresh sample of each posterior (where the store keeps posteriors) and, in a
        store with flips, which of the two mirror images is read. Without it the mean of the image itself is read.
        """
        places = self._check(indices)
        flips = None
        if random is not None and self.plan.flips:
            flips = random.uniform((), "flip").numpy() < 0.5
        draws = random is not None and self.sample
        z = self._gather("mean", places, flips, normalize=not draws, out=out)
        if draws:
            std = self._gather("std", places, flips)
            self._normalize(z.addcmul_(std, random.normal(self.spec.shape, "posterior")))
        labels = None if self.labels is None else torch.from_numpy(np.asarray(self.labels[places]))
        return z, labels

    def read_posterior(
        self, indices: Sequence[int] | np.ndarray | Tensor | slice, *, flip: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Raw mean and standard deviation (None where only one tensor was kept), (B, C, h, w) fp32, before normalisation."""
        places = self._check(indices)
        if flip and not self.plan.flips:
            raise DataError(f"{self.folder} has no mirror images; encode with flips")
        flips = np.full(len(places), flip)
        std = self._gather("std", places, flips) if self.plan.posterior == "distribution" else None
        return self._gather("mean", places, flips), std

    def batches(
        self, batch_size: int, *, seed: int | None = None, epoch: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """One epoch of `read` results for process `rank` of `world`: in order, or shuffled by `seed` and `epoch`.

        Together the processes see every sample once; the last batch may be smaller.
        """
        from fae_core.random import derive_seed
        from fae_core.random.permutation import permute

        for start in range(rank * batch_size, len(self), world * batch_size):
            places = np.arange(start, min(start + batch_size, len(self)))
            if seed is not None:
                places = permute(places.astype(np.uint64), len(self), derive_seed(seed, "epoch", epoch))
            yield self.read(places)

    def verify(self) -> None:
        """Read every file and compare it with the index; raises DataError naming the first that is damaged."""
        self._verify_shards(range(self.plan.shards))
        if self.plan.labels:
            self._verify_labels()

    def _verify_labels(self) -> None:
        if not (self.folder / STORE_LABELS).is_file():
            raise DataError(f"{self.folder / STORE_LABELS} is missing")
        if sha256_file(self.folder / STORE_LABELS) != self.index.labels_sha256:
            raise DataError(f"{self.folder / STORE_LABELS} is damaged: its checksum is not the index's")

    def _verify_shards(self, shards: Iterable[int]) -> None:
        """Compare shards with their checksums, in threads. Raises DataError naming the first that is damaged."""
        with ThreadPoolExecutor(_VERIFY_THREADS) as pool:
            for shard, damaged in zip(shards, pool.map(self._is_damaged, shards), strict=True):
                if damaged:
                    raise DataError(f"{self.folder / store_shard(shard)} is damaged: its checksum is not the index's")

    def _is_damaged(self, shard: int) -> bool:
        count, _, digest = self.index.shards[shard]
        if count == 0:
            return False
        self._shard(shard)
        return sha256_file(self.folder / store_shard(shard)) != digest

    def _verify_touched(self, shards: np.ndarray) -> None:
        """Verify those of some shards that nobody has read before."""
        if not self._verify or not self._unverified:
            return
        with self._verifying:  # who comes second waits for the first, and finds nothing left to do
            fresh = sorted(self._unverified.intersection(np.unique(shards).tolist()))
            if fresh:
                self._verify_shards(fresh)
                self._unverified.difference_update(fresh)

    def _check(self, indices: Sequence[int] | np.ndarray | Tensor | slice) -> np.ndarray:
        """Indices as int64, negative ones counted from the end. Raises DataError where one is outside the store."""
        if isinstance(indices, slice):
            return np.arange(*indices.indices(len(self)), dtype=np.int64)
        places = np.asarray(indices, dtype=np.int64)
        if places.ndim != 1:
            raise DataError(f"indices must be a list of numbers, not of shape {places.shape}")
        places = np.where(places < 0, places + len(self), places)
        if places.size and not (places.min() >= 0 and places.max() < len(self)):
            raise DataError(f"sample {int(np.asarray(indices).max())} does not exist: {self.folder} has {len(self)}")
        return places

    def _locate(self, place: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._starts, place, side="right")) - 1
        return shard, int(place - self._starts[shard])

    def _shard(self, shard: int) -> dict[str, np.ndarray]:
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

    def _open(self, shard: int) -> dict[str, np.ndarray]:
        count, size, _ = self.index.shards[shard]
        path = self.folder / store_shard(shard)
        tensors = map_shard(path, size)
        kind = NUMPY_TYPES[LATENT_TYPES[self.plan.dtype]]
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

    def _gather(
        self,
        kind: str,
        places: np.ndarray,
        flips: np.ndarray | None,
        normalize: bool = False,
        out: Tensor | None = None,
    ) -> Tensor:
        """Latents of one kind in the order of `places`, as fp32."""
        shape = (len(places), *self.spec.shape)
        shards = np.searchsorted(self._starts, places, side="right") - 1
        if len(shards):
            self._verify_touched(shards)
            self._shard(int(shards[0]))  # a spec that does not fit the shards must not decide how much memory is taken
        if out is None:
            out = torch.empty(shape, dtype=torch.float32)
        if out.shape != shape or out.dtype != torch.float32 or out.device.type != "cpu":
            raise DataError(f"out must be an fp32 tensor of shape {shape} on the CPU")
        rows = places - self._starts[shards]
        sides = shards * 2 + (flips if flips is not None else 0)
        # A run is a stretch of the batch that lies together in one tensor of one shard; a chunk stays in the processor's cache.
        # Runs are gathered as they are stored and converted together: a call for each of them would cost as much as its bytes.
        breaks = np.diff(sides, prepend=-1, append=-1) != 0
        breaks[1:-1] |= np.diff(rows) != 1
        scratch = None
        for start in range(0, len(places), _CHUNK):
            stop = min(start + _CHUNK, len(places))
            edges = [start, *(np.flatnonzero(breaks[start + 1 : stop]) + start + 1).tolist(), stop]
            for low, high in pairwise(edges):
                stored = self._shard(int(shards[low]))[f"{kind}_flip" if sides[low] % 2 else kind]
                stored = stored[rows[low] : rows[low] + high - low]
                if len(edges) > 2:
                    scratch = np.empty((_CHUNK, *self.spec.shape), stored.dtype) if scratch is None else scratch
                    scratch[low - start : high - start] = stored
            self._copy(out[start:stop], stored if len(edges) == 2 else scratch[: stop - start])
            if normalize:
                self._normalize(out[start:stop])
        return out

    def _copy(self, out: Tensor, stored: np.ndarray) -> None:
        source = torch.from_numpy(stored)
        out.copy_(source.view(torch.bfloat16) if self.plan.dtype == "bfloat16" else source)

    def _normalize(self, z: Tensor) -> None:
        """LatentSpec.normalize in place."""
        if self.spec.is_normalized:
            mean, std = self._scale
            z.sub_(mean).div_(std)

    @cached_property
    def _scale(self) -> tuple[Tensor, Tensor]:
        view = (self.spec.channels, 1, 1)
        return torch.tensor(self.spec.mean).view(view), torch.tensor(self.spec.std).view(view)


def _text(tensors: dict[str, np.ndarray], kind: str, row: int) -> str:
    if f"{kind}_offsets" not in tensors:
        return ""
    low, high = tensors[f"{kind}_offsets"][row : row + 2]
    return tensors[f"{kind}_bytes"][low:high].tobytes().decode("utf-8", errors="replace")
