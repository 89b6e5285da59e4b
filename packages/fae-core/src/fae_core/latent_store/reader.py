"""LatentStore: latents read from disk, memory-mapped, normalised, in any order, by many threads and processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fae_core.display import html_table, short
from fae_core.errors import DataError
from fae_core.images.captions import split_captions
from fae_core.latent_store.dataset import LatentStream, SampleDataset, epoch_places
from fae_core.latent_store.facts import StoreFacts
from fae_core.latent_store.format import DTYPES, Sample
from fae_core.latent_store.shards import text_of
from fae_core.places import places_of
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec

_CHUNK = 32  # samples that are gathered, converted and normalised together, while they are in the processor's cache


class LatentStore(StoreFacts, SampleDataset):
    """An encoded data set: len(store), store[i] -> Sample, store.read(indices) -> (z, labels).

    It is a map-style data set of torch: a DataLoader reads each batch at once, and default_collate joins samples to a
    dict of those fields that the data have. `for sample in store` reads in order; `stream` is the iterable data set.
    Opening reads no latents; a store of 10^8 samples opens in seconds and takes some megabytes of memory.

    Args:
        folder: The store's.
        spec: The latent space that the caller wants.
        sample: Draw from the posterior where the store keeps it and `read` is given `random`; else return its mean.
        verify: Compare each shard with its checksum, once, before its first use; some 0.5 seconds a gigabyte.

    Raises:
        DataError: Where the folder is not a finished store, or a file of it is not what was written.
        LatentSpecMismatch: Where the store holds another space than `spec`.
    """

    def __init__(
        self, folder: str | Path, *, spec: LatentSpec | None = None, sample: bool = True, verify: bool = True
    ) -> None:
        StoreFacts.__init__(self, folder, verify=verify)
        if spec is not None:
            spec.require(self.spec, context=f"latent store {folder}")
        self.sample = sample and self.plan.posterior == "distribution"

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> list[Sample]:
        places = places_of(indices, len(self), str(self.folder))
        z, labels = self.read(places)
        samples = []
        for i, (shard, row) in enumerate(zip(*(found.tolist() for found in self._shards.locate(places)), strict=True)):
            tensors = self._shards.tensors(shard)
            captions = split_captions(text_of(tensors, "caption", row)) if self.plan.captions else ()
            label, caption = None if labels is None else int(labels[i]), next(iter(captions), None)
            name, source = text_of(tensors, "name", row), int(tensors["source"][row])
            samples.append(Sample(z[i], label, name, caption, source, tuple(captions)))
        return samples

    def __repr__(self) -> str:
        sizes = "x".join(map(str, self.spec.shape))
        return f"LatentStore({short(self.folder)!r}, {len(self):,} latents of {sizes}, {self.plan.dtype})"

    def _repr_html_(self) -> str:
        facts = {"folder": self.folder, "samples": len(self), "stored as": f"{self.plan.posterior}, {self.plan.dtype}"}
        facts["classes"] = len(self.plan.classes) if self.plan.classes else "labels" if self.plan.labels else "none"
        facts |= {"captions": self.plan.captions, "mirror images": self.plan.flips}
        return html_table("LatentStore", {**facts, **self.spec.facts()})

    def __getstate__(self) -> dict[str, Any]:
        # Maps and locks stay in their process.
        return {"folder": self.folder, "sample": self.sample, "verify": self._verify}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"], sample=state["sample"], verify=state["verify"])

    def read(
        self,
        indices: Sequence[int] | np.ndarray | Tensor | slice,
        random: SlotRandom | None = None,
        *,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Normalised latents and their labels.

        With `random` each posterior is sampled (where the store keeps posteriors), and in a store with flips `random`
        chooses between an image and its mirror image. Without it the mean of the image itself is read.

        Args:
            indices: B indices into the store; negative ones count from the end.
            random: B slots, one per index.
            out: An fp32 tensor (B, C, h, w) on the CPU to fill, such as pinned memory. Reusing one is several times
                faster for batches beyond 32 MiB, for which the system must map new pages in every call otherwise.

        Returns:
            Latents (B, C, h, w) fp32 and labels (B,) int64, None where there are none.

        Raises:
            DataError: Where an index is outside the store or no integer, `random` or `out` do not fit, or a file is
                damaged.
        """
        places = places_of(indices, len(self), str(self.folder))
        if random is not None and len(random) != len(places):  # one slot would give all samples the same noise
            raise DataError(f"{len(places)} samples of {self.folder} for {len(random)} random slots")
        flips = None
        if random is not None and self.plan.flips:
            flips = random.uniform((), "flip").numpy() < 0.5
        if random is not None and self.sample:
            z = self._gather("mean", places, flips, out=out)
            z.addcmul_(self._gather("std", places, flips), random.normal(self.spec.shape, "posterior"))
            self.spec.normalize_(z)
        else:
            z = self._gather("mean", places, flips, normalize=True, out=out)
        labels = None if self.labels is None else torch.from_numpy(np.asarray(self.labels[places]))
        return z, labels

    def read_posterior(
        self, indices: Sequence[int] | np.ndarray | Tensor | slice, *, flip: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Raw latents, before normalisation.

        Args:
            indices: B indices into the store; negative ones count from the end.
            flip: Read the mirror images.

        Returns:
            Mean and standard deviation (B, C, h, w) fp32; the latter is None where the store does not keep it.

        Raises:
            DataError: As `read`, and where the store has no mirror images.
        """
        places = places_of(indices, len(self), str(self.folder))
        if flip and not self.plan.flips:
            raise DataError(f"{self.folder} has no mirror images; encode with flips")
        flips = np.full(len(places), flip)
        std = self._gather("std", places, flips) if self.plan.posterior == "distribution" else None
        return self._gather("mean", places, flips), std

    def batches(
        self, batch_size: int, *, seed: int | None = None, epoch: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """One epoch of `read` results. Together the processes see every sample once; the last batch may be smaller.

        Args:
            batch_size: Samples per batch, at least 1.
            seed: Shuffles the samples, together with `epoch`; None keeps their order.
            epoch: Number of the epoch.
            rank: Number of this process, 0 to world - 1.
            world: Number of processes.

        Raises:
            DataError: Where the batch is empty, or there is no such process.
        """
        for places in epoch_places(len(self), batch_size, seed, epoch, rank, world):
            yield self.read(places)

    def stream(self, *, seed: int | None = None, epoch: int = 0, rank: int = 0, world: int = 1) -> LatentStream:
        """One epoch as an iterable data set of torch, whose samples the workers of a DataLoader share.

        Args:
            seed: Shuffles the samples, together with `epoch`; None keeps their order.
            epoch: Number of the epoch.
            rank: Number of this process, 0 to world - 1.
            world: Number of processes.
        """
        return LatentStream(self, seed=seed, epoch=epoch, rank=rank, world=world)

    def _gather(
        self,
        kind: str,
        places: np.ndarray,
        flips: np.ndarray | None,
        normalize: bool = False,
        out: Tensor | None = None,
    ) -> Tensor:
        """Latents of one kind in the order of `places`, as fp32."""
        shards, rows = self._shards.locate(places)
        if len(places):
            self._shards.verify_touched(shards)
            self._shards.tensors(int(shards[0]))  # before memory is taken for a spec that may not fit the shards
        shape = (len(places), *self.spec.shape)
        if out is None:
            out = torch.empty(shape, dtype=torch.float32, device="cpu")
        if out.shape != shape or out.dtype != torch.float32 or out.device.type != "cpu":
            raise DataError(f"out must be an fp32 tensor of shape {shape} on the CPU")
        scratch = np.empty((min(_CHUNK, len(places)), *self.spec.shape), DTYPES[self.plan.dtype])
        sides = shards * 2 + (0 if flips is None else flips)
        for chunk, runs in zip(out.split(_CHUNK), _runs(sides, rows), strict=False):
            # Runs are gathered as stored and converted together: converting each would take as long as copying it.
            parts = [
                self._shards.tensors(side // 2)[f"{kind}_flip" if side % 2 else kind][low:high]
                for side, low, high in runs
            ]
            self._copy(chunk, parts[0] if len(parts) == 1 else np.concatenate(parts, out=scratch[: len(chunk)]))
            if normalize and self.spec.is_normalized:
                self.spec.normalize_(chunk)
        return out

    def _side(self, kind: str, side: int) -> np.ndarray:
        """The latents of one kind in a shard, `side` // 2, or where `side` is odd their mirror images."""
        return self._shards.tensors(side // 2)[f"{kind}_flip" if side % 2 else kind]

    def _copy(self, out: Tensor, stored: np.ndarray) -> None:
        """Write latents to `out` as fp32."""
        source = torch.from_numpy(stored)
        out.copy_(source.view(torch.bfloat16) if self.plan.dtype == "bfloat16" else source)


def _runs(sides: np.ndarray, rows: np.ndarray) -> Iterator[list[tuple[int, int, int]]]:
    """A batch in chunks of `_CHUNK`, each as the runs (side, first row, end) that lie together in one tensor.

    sides, rows: where each sample is: the tensor (twice the shard's number, plus one for mirror images) and the row.
    """
    breaks = (np.diff(sides) != 0) | (np.diff(rows) != 1)
    for start in range(0, len(rows), _CHUNK):
        stop = min(start + _CHUNK, len(rows))
        edges = [start, *(np.flatnonzero(breaks[start : stop - 1]) + start + 1).tolist(), stop]
        firsts = zip(sides[edges[:-1]].tolist(), rows[edges[:-1]].tolist(), pairwise(edges), strict=True)
        yield [(side, row, row + high - low) for side, row, (low, high) in firsts]
