"""Writing one shard of a latent store. It depends on its range of the source alone, and is whole or absent."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from fae_core.errors import DataError
from fae_core.files import sync_folder, write_atomic
from fae_core.folders import store_shard
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
            latents: Raw latents (B, C, h, w) by name, as `Plan.latents` lists them.
            labels: One per sample, where the plan has labels.
            names: One per sample.
            captions: One per sample, where the plan has captions.

        Raises:
            DataError: Where the batch does not match the plan, or a value does not fit the store's dtype.
        """
        plan, dtype = self.writer.plan, getattr(torch, self.writer.plan.dtype)
        if latents.keys() != self._latents.keys():
            raise DataError(f"the store keeps {', '.join(self._latents)}, got {', '.join(latents)}")
        ordered = [*self._source[-1:], *source]
        if ordered != sorted(set(ordered)) or any(place not in self.range for place in source):
            raise DataError(f"shard {self.number} takes places {self.range} in ascending order, each once")
        for name, given in (("labels", labels), ("captions", captions)):
            if (given is not None) != getattr(plan, name) or (given is not None and len(given) != len(source)):
                raise DataError(f"the store was announced with {name}={getattr(plan, name)}, one for each sample")
        for name, values in latents.items():
            if tuple(values.shape) != (len(source), *self.writer.spec.shape):
                raise DataError(
                    f"{name} has shape {tuple(values.shape)}, expected {(len(source), *self.writer.spec.shape)}"
                )
            stored = values.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
            if not stored.isfinite().all():
                finite = bool(values.isfinite().all())
                problem = f"overflow {plan.dtype}; use float32 or bfloat16" if finite else "are not finite"
                raise DataError(f"latents of samples {source[0]} to {source[-1]} {problem}")
            self._latents[name].append(stored)
        self._source += map(int, source)
        try:
            self._labels += map(operator.index, labels or ())
        except TypeError:
            raise DataError(f"labels are integers, and there is another among {list(labels or ())[:3]}") from None
        self._names += names if names is not None else [""] * len(source)
        self._captions += captions or ()

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
        tensors["source"] = torch.tensor(self._source)
        if self.writer.plan.labels:
            tensors["label"] = torch.tensor(self._labels)
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
