"""Writing a latent store, shard by shard: what is to be written, what has been, and the files about all shards.

A shard is written to a temporary file, flushed, renamed, and only then noted in .progress/; a shard that is noted there
is never written again. Any number of processes may write different shards; one of them calls `finish`.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from fae_core.config import parse_config
from fae_core.errors import DataError
from fae_core.files import (
    begun_folder,
    disk_errors,
    hold,
    is_empty,
    read_json,
    recover_folder,
    remove_folder,
    remove_leftovers,
    require_new_folder,
    sealed,
    sha256_file,
    sync_folder,
    write_atomic,
)
from fae_core.folders import STORE_INDEX, STORE_LABELS, STORE_PLAN, STORE_PROGRESS, STORE_SKIPPED, store_shard
from fae_core.latent_store.begun import is_begun
from fae_core.latent_store.format import (
    Index,
    Plan,
    default_shard_size,
    map_shard,
    read_index,
    read_plan,
)
from fae_core.latent_store.reader import LatentStore
from fae_core.latent_store.shard_writer import ShardWriter
from fae_core.latent_store.statistics import ChannelSums
from fae_core.spec import LatentSpec

_KIND = "latent store"


class LatentStoreWriter:
    """Writes one store. Cheap to pickle, so that spawned processes can each write their share of `pending`.

    Args:
        folder: Where the store is made.
        spec: The latent space.
        plan: What the store will hold.
        resume: Continue an interrupted store of the same spec and plan, or accept a finished one.
        overwrite: Delete an older latent store in `folder` first.

    Raises:
        OutputExists: Where `folder` is not empty, without `resume` or `overwrite`.
        LatentSpecMismatch: Where the store to resume is of another spec.
        DataError: Where the store to resume has another plan.
    """

    def __init__(
        self, folder: str | Path, spec: LatentSpec, plan: Plan, *, resume: bool = False, overwrite: bool = False
    ) -> None:
        self.folder, self.spec, self.plan = Path(folder), spec, plan
        self._progress = self.folder / STORE_PROGRESS
        require_new_folder(self.folder, overwrite=overwrite, resume=resume, kind=_KIND, resumable=True)
        with disk_errors(self.folder):
            recover_folder(self.folder)
            if resume and self.folder.is_dir() and not is_empty(self.folder):
                self._require_same()
            else:
                self._start(overwrite)

    @property
    def finished(self) -> bool:
        """Whether the store has its index."""
        return (self.folder / STORE_INDEX).is_file()

    def pending(self, rank: int = 0, world: int = 1) -> list[int]:
        """Numbers of the shards that process `rank` of `world` has yet to write.

        Args:
            rank: Of this process, from 0.
            world: How many processes write.
        """
        if self.finished:
            return []
        return [shard for shard in range(rank, self.plan.shards, world) if not self._note(shard).is_file()]

    def shard(self, shard: int) -> ShardWriter:
        """A writer of one shard, by its number.

        Args:
            shard: Its number, from 0; one of `pending`.
        """
        return ShardWriter(self, shard)

    def finish(self, statistics: Literal["data", "spec"] = "data") -> LatentStore:
        """Check that every shard is there, and write labels.npy, latent_spec.json and, last, index.json.

        Args:
            statistics: "data" normalises by the statistics of these latents, "spec" by those of the given spec.

        Raises:
            DataError: Where shards are missing, no sample could be written, or `statistics` is something else.
            LatentSpecMismatch: Where the store is finished already, with other statistics.
        """
        if self.finished:
            if self._progress.is_dir():  # the process was killed between index.json and this
                remove_folder(self._progress)
            store = LatentStore(self.folder)
            wanted = self._normalized(statistics, store.index.mean, store.index.std)
            wanted.require(store.spec, context=f"{self.folder} was finished with other statistics")
            return store
        missing = self.pending()
        if missing:
            raise DataError(f"{self.folder} lacks {len(missing)} of {self.plan.shards} shards; write them first")
        remove_leftovers(self.folder)
        notes = [read_json(self._note(shard)) for shard in range(self.plan.shards)]
        count = sum(note["samples"] for note in notes)
        if count == 0:
            raise DataError(f"none of the {self.plan.total} samples could be read; {notes[0]['skipped'][0][1]}")
        sums = ChannelSums.empty(self.spec.channels)
        for note in notes:
            sums = sums + ChannelSums.from_dict(note["sums"])
        mean, std = sums.mean_std()
        skipped = [f"{place}\t{reason}\n" for note in notes for place, reason in note["skipped"]]
        if skipped:
            write_atomic(self.folder / STORE_SKIPPED, "".join(skipped).encode())
        spec = self._normalized(statistics, mean, std)
        index = Index(
            plan=self.plan,
            count=count,
            shards=tuple((note["samples"], note["bytes"], note["sha256"]) for note in notes),
            labels_sha256=self._write_labels(notes) if self.plan.labels else "",
            spec_sha256=sha256_file(spec.save(self.folder)),
            mean=mean,
            std=std,
        )
        record = json.dumps(sealed(index.model_dump(mode="json")), separators=(",", ":"))
        write_atomic(self.folder / STORE_INDEX, record.encode() + b"\n")
        sync_folder(self.folder)
        remove_folder(self._progress)
        return LatentStore(self.folder)

    def _normalized(
        self, statistics: Literal["data", "spec"], mean: Sequence[float], std: Sequence[float]
    ) -> LatentSpec:
        """The store's spec, given the statistics of its latents. Raises DataError for another choice than the two."""
        if statistics not in ("data", "spec"):
            raise DataError(f'statistics are "data" or "spec", not {str(statistics)[:40]!r}')
        return self.spec.with_statistics(mean, std) if statistics == "data" else self.spec

    def skipped(self) -> list[tuple[int, str]]:
        """(place in the source, reason) of each sample that was left out so far."""
        if self.finished:
            path = self.folder / STORE_SKIPPED
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
            return [(int(place), reason) for place, _, reason in (line.partition("\t") for line in lines)]
        notes = [read_json(self._note(s)) for s in range(self.plan.shards) if self._note(s).is_file()]
        return [(place, reason) for note in notes for place, reason in note["skipped"]]

    def note(self, shard: int, facts: dict[str, Any]) -> None:
        """Record a shard as written.

        Args:
            shard: Its number.
            facts: `samples`, `bytes`, `sha256`, `sums` and `skipped` of it.
        """
        write_atomic(self._note(shard), json.dumps(facts).encode())

    def _note(self, shard: int) -> Path:
        return self._progress / f"{shard:06d}.json"

    def _start(self, overwrite: bool = False) -> None:
        with begun_folder(self.folder, overwrite=overwrite, kind=_KIND, resumable=True) as folder:
            progress = folder / STORE_PROGRESS
            progress.mkdir(exist_ok=True)
            self.spec.save(progress)
            # The plan is written last: a folder without it was never started.
            write_atomic(progress / STORE_PLAN, self.plan.model_dump_json().encode())

    def _require_same(self) -> None:
        """Raise unless the folder holds this store, finished or not; begin it where nothing was written yet."""
        if not is_begun(self.folder):
            self._start(overwrite=True)
            return
        if self.finished:
            older, spec = read_index(self.folder).plan, LatentSpec.load(self.folder)
            # A finished store's statistics may be those of the data.
            self.spec.require(spec, ignore=("mean", "std"), context=str(self.folder))
        else:
            older, spec = read_plan(self.folder), LatentSpec.load(self._progress)
            self.spec.require(spec, context=str(self.folder))
        for name in Plan.model_fields:
            if getattr(older, name) != getattr(self.plan, name):
                was, now = repr(getattr(older, name))[:60], repr(getattr(self.plan, name))[:60]
                raise DataError(
                    f"{self.folder} was begun with {name} = {was}, not {now}; repeat its options or --overwrite"
                )

    def _write_labels(self, notes: list[dict[str, Any]]) -> str:
        labels = [
            map_shard(self.folder / store_shard(shard), note["bytes"])["label"]
            for shard, note in enumerate(notes)
            if note["samples"]
        ]
        buffer = io.BytesIO()
        np.save(buffer, np.concatenate(labels), allow_pickle=False)
        write_atomic(self.folder / STORE_LABELS, buffer.getvalue())
        return hashlib.sha256(buffer.getvalue()).hexdigest()


def write_store(
    folder: str | Path,
    spec: LatentSpec,
    mean: Tensor,
    *,
    std: Tensor | None = None,
    labels: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    dtype: Literal["float16", "bfloat16", "float32"] = "float32",
    shard_size: int | None = None,
    statistics: Literal["data", "spec"] = "spec",
    overwrite: bool = False,
) -> LatentStore:
    """Write latents that fit in memory as a store.

    Args:
        folder: Where the store is made.
        spec: The latent space.
        mean: Raw latents (N, C, h, w), N >= 1.
        std: Of their posteriors (N, C, h, w), >= 0; without it the store keeps no distribution.
        labels: One per sample: indices into `classes`, or any integers >= 0 without; -1 for none.
        classes: Names of the labels.
        names: One per sample.
        captions: One per sample.
        dtype: Type in which latents are stored.
        shard_size: Samples per shard, at least 1; None keeps a shard near 64 MiB.
        statistics: "spec" normalises by the spec's own mean and std, "data" by those of these latents.
        overwrite: Delete an older latent store in `folder` first.

    Raises:
        OutputExists: Where `folder` is not empty, without `overwrite`.
        DataError: Where the arrays do not fit together, or a value is none of its kind (see `ShardWriter.add`).
        InvalidSettings: Where `shard_size` is none.
    """
    latents = {"mean": mean} if std is None else {"mean": mean, "std": std}
    texts = {"labels": labels, "names": names, "captions": captions}
    given = {name: values for name, values in {**latents, **texts}.items() if values is not None}
    # Before the folder is touched, and here because shards are slices, from which a surplus is gone.
    if len({len(values) for values in given.values()}) > 1 or not len(mean):
        counts = ", ".join(f"{len(values)} {name}" for name, values in given.items())
        raise DataError(f"a latent store needs at least one sample, and as many of each: there are {counts}")
    if classes is not None and labels is None:
        raise DataError("classes are the names of labels, and there are no labels")
    if shard_size is None:
        shard_size = default_shard_size(math.prod(spec.shape) * len(latents), dtype)
    fields = {
        "total": len(mean),
        "shard_size": shard_size,
        "dtype": dtype,
        "posterior": "mean" if std is None else "distribution",
        "labels": labels is not None,
        "captions": captions is not None,
        "classes": None if classes is None else tuple(classes),
    }
    plan = parse_config(Plan, fields, "write_store")
    with hold(folder):
        writer = LatentStoreWriter(folder, spec, plan, overwrite=overwrite)
        for number in range(plan.shards):
            shard = writer.shard(number)
            rows = slice(shard.range.start, shard.range.stop)
            part = {name: None if values is None else list(values[rows]) for name, values in texts.items()}
            shard.add(list(shard.range), {name: values[rows] for name, values in latents.items()}, **part)
            shard.commit()
        return writer.finish(statistics)
