"""Writing one shard of a latent store. It depends on its range of the source alone, and is whole or absent."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from fae_core.errors import DataError
from fae_core.files import sync_folder, write_atomic
from fae_core.folders import store_shard
from fae_core.images.classes import NO_LABEL
from fae_core.latent_store.statistics import ChannelSums

if TYPE_CHECKING:
    from fae_core.latent_store.writer import LatentStoreWriter


class ShardWriter:
    """The samples of one shard: `add` batches in the order of their places, then `commit`.

    Args:
        writer: The store's.
        shard: Number of the shard.
    """

    def __init__(self, writer: LatentStoreWriter, shard: int) -> None:
        self.writer, self.number = writer, shard
        self.range = writer.plan.range(shard)
        self._latents: dict[str, list[Tensor]] = {name: [] for name in writer.plan.latents()}
        self._source: list[int] = []
        self._labels: list[int] = []
        self._names: list[str] = []
        self._captions: list[str] = []
        self._skipped: list[tuple[int, str]] = []

    def add(
        self,
        source: Sequence[int],
        latents: dict[str, Tensor],
        *,
        labels: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
        captions: Sequence[str] | None = None,
    ) -> None:
        """Add a batch of samples.

        Args:
            source: Places in the source, ascending.
            latents: Raw latents (B, C, h, w) by name, as `Plan.latents` lists them; standard deviations are >= 0.
            labels: One per sample, where the plan has labels: indices into its classes, -1 for none.
            names: One per sample.
            captions: One per sample, where the plan has captions.

        Raises:
            DataError: Where the batch does not match the plan, or a value is none of its kind or does not fit the
                store's dtype. Nothing of the batch is kept then.
        """
        plan = self.writer.plan
        if latents.keys() != self._latents.keys():
            raise DataError(f"the store keeps {', '.join(self._latents)}, got {', '.join(latents)}")
        ordered = [*self._source[-1:], *source]
        if ordered != sorted(set(ordered)) or any(place not in self.range for place in source):
            raise DataError(f"shard {self.number} takes places {self.range} in ascending order, each once")
        given: dict[str, list[Any]] = {
            name: list(values)
            for name, values in (("labels", labels), ("names", names), ("captions", captions))
            if values is not None
        }
        for name in ("labels", "captions"):
            if (name in given) != getattr(plan, name):
                raise DataError(f"the store was announced with {name}={getattr(plan, name)}, one for each sample")
        for name, values in given.items():
            if len(values) != len(source):
                raise DataError(f"{len(values)} {name} for {len(source)} samples; give one for each")
            if name != "labels" and not all(isinstance(text, str) for text in values):
                raise DataError(f"{name} are texts, and there is another value among {str(values[:3])[:80]}")
        stored = {name: self._stored(name, values, source) for name, values in latents.items()}
        self._labels += self._indices(given.get("labels", []))
        for name, values in stored.items():
            self._latents[name].append(values)
        self._source += map(int, source)
        self._names += given.get("names", [""] * len(source))
        self._captions += given.get("captions", [])

    def _stored(self, name: str, values: Tensor, source: Sequence[int]) -> Tensor:
        """A copy of a batch's latents of one kind in the store's dtype. Raises DataError."""
        shape, dtype = (len(source), *self.writer.spec.shape), self.writer.plan.dtype
        if not isinstance(values, Tensor):
            raise DataError(f"{name} is a {type(values).__name__}; give a tensor of shape {shape}")
        if tuple(values.shape) != shape:
            raise DataError(f"{name} has shape {tuple(values.shape)}, expected {shape}")
        stored = values.detach().to("cpu", getattr(torch, dtype), copy=True, memory_format=torch.contiguous_format)
        problem = None
        if not stored.isfinite().all():
            problem = f"overflow {dtype}; use float32 or bfloat16" if values.isfinite().all() else "are not finite"
        elif name.startswith("std") and (stored < 0).any():
            problem = "have negative standard deviations"
        if problem is not None:
            raise DataError(f"latents of samples {source[0]} to {source[-1]} {problem}")
        return stored

    def _indices(self, labels: list[int]) -> list[int]:
        """Labels as integers. Raises DataError where one is none, or no class of the plan."""
        classes = self.writer.plan.classes
        try:
            numbers = list(map(operator.index, labels))
        except TypeError:
            raise DataError(f"labels are integers, and there is another among {labels[:3]}") from None
        below = 2**63 if classes is None else len(classes)  # labels.npy is int64
        wrong = next((number for number in numbers if not NO_LABEL <= number < below), None)
        if wrong is not None:
            kind = "an index >= 0 that int64 holds" if classes is None else f"one of the {below} classes"
            raise DataError(f"label {str(wrong)[:40]} is not {kind}; number classes from 0, {NO_LABEL} stands for none")
        return numbers

    def skip(self, place: int, reason: str) -> None:
        """Leave out the sample at a place in the source, with a reason for skipped.txt.

        Args:
            place: In the source, from 0.
            reason: Why; line breaks become spaces.
        """
        self._skipped.append((int(place), " ".join(reason.split())))

    def commit(self) -> None:
        """Write the shard and record it as written; raises DataError unless every place was added or skipped."""
        done = sorted([*self._source, *(place for place, _ in self._skipped)])
        if done != list(self.range):
            raise DataError(f"shard {self.number} has {len(done)} of {len(self.range)} samples")
        sums, size, digest = ChannelSums.empty(self.writer.spec.channels), 0, ""
        if self._source:
            tensors = self._tensors()
            for side in ("", "_flip"):
                if f"mean{side}" in tensors:
                    sums = sums + ChannelSums.of(tensors[f"mean{side}"], tensors.get(f"std{side}"))
            data = save(tensors)
            size, digest = len(data), hashlib.sha256(data).hexdigest()
            write_atomic(self.writer.folder / store_shard(self.number), data)
            sync_folder(self.writer.folder)
        facts = {"samples": len(self._source), "bytes": size, "sha256": digest, "sums": sums.to_dict()}
        self.writer.note(self.number, {**facts, "skipped": sorted(self._skipped)})

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {name: torch.cat(parts) for name, parts in self._latents.items()}
        tensors["source"] = torch.tensor(self._source, device="cpu")
        if self.writer.plan.labels:
            tensors["label"] = torch.tensor(self._labels, device="cpu")
        texts = {"name": self._names, "caption": self._captions if self.writer.plan.captions else []}
        for kind, values in texts.items():
            if any(values):
                tensors.update({f"{kind}_{part}": tensor for part, tensor in _pack_texts(values).items()})
        return tensors


def _pack_texts(texts: list[str]) -> dict[str, Tensor]:
    """Texts as one array of UTF-8 bytes and n + 1 offsets into it."""
    encoded = [text.encode(errors="replace") for text in texts]  # names of files need not be Unicode
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return {
        "bytes": torch.frombuffer(bytearray(b"".join(encoded)) or bytearray(1), dtype=torch.uint8),
        "offsets": torch.from_numpy(offsets),
    }
