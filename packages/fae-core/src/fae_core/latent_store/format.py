"""The files of a latent store, and the checks on them before their content is used. torch is not imported.

A shard is a safetensors file with the samples of one range of the source: `mean` (n, C, h, w), `std` likewise where the
posterior is kept, `mean_flip` and `std_flip` of the mirrored images, `source` (n,) the place in the source, `label`
(n,), and texts as UTF-8 bytes with n + 1 offsets. Latents are raw: the spec's mean and std are applied when they are
read.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, field_validator

from fae_core.config import Config, parse_config
from fae_core.config.limits import LARGEST_SEED, SMALLEST_SEED
from fae_core.display import fields_html, fields_repr
from fae_core.errors import DataError, field_reasons
from fae_core.files import CHECKSUM, read_json, unsealed
from fae_core.files.ownership import kind_of
from fae_core.folders import STORE_INDEX, STORE_PLAN, STORE_PROGRESS
from fae_core.redact import redact

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "fae-latent-store"
VERSION = 2  # 1 had no checksums of the spec and of the index itself

Posterior = Literal["distribution", "mean", "sample"]
# Of latents, as numpy reads them: it has no bfloat16 and carries it as bytes.
DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(np.uint16), "float32": np.dtype(np.float32)}
# Of all tensors, by safetensors' names.
_NUMPY_TYPES = {"F16": np.float16, "BF16": np.uint16, "F32": np.float32, "I64": np.int64, "U8": np.uint8}
_MAX_HEADER = 2**20
_MOST_AXES = 4
_MAX_INDEX = 2**28
_SHARD_BYTES = 64 * 2**20
_SHARD_SAMPLES = 2048
_MOST_SAMPLES = 2**48
TEXTS = ("name", "caption")


class Plan(Config):
    """What a store will hold; fixed before the first sample, and compared when an interrupted store is resumed.

    Args:
        total: Samples of the source, unreadable ones included.
        shard_size: Source samples per shard.
        dtype: Of the latents.
        posterior: "distribution" keeps mean and std, "mean" the mean alone, "sample" one draw in the mean's place.
        flips: Whether each sample also has its mirror image.
        labels: Whether samples have labels.
        captions: Whether samples have captions.
        classes: Names of the labels.
        source: Any text that identifies the data.
        seed: Of the draws of posterior="sample".
    """

    total: int = Field(ge=1, le=_MOST_SAMPLES)
    shard_size: int = Field(ge=1, le=_MOST_SAMPLES)
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    posterior: Posterior = "distribution"
    flips: bool = False
    labels: bool = False
    captions: bool = False
    classes: tuple[str, ...] | None = None
    source: str = ""
    seed: int = Field(default=0, ge=SMALLEST_SEED, le=LARGEST_SEED)

    @field_validator("source")
    @classmethod
    def _without_secrets(cls, value: str) -> str:
        return redact(value)  # here and not on writing, so that a plan equals itself when it is read back

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.total // self.shard_size)

    def range(self, shard: int) -> range:
        """Places in the source of a shard's samples.

        Args:
            shard: Its number, from 0.
        """
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.total))

    def latents(self) -> tuple[str, ...]:
        """Names of the latent tensors in a shard."""
        kinds = ("mean", "std") if self.posterior == "distribution" else ("mean",)
        return tuple(f"{kind}{side}" for side in (("", "_flip") if self.flips else ("",)) for kind in kinds)


class Index(Config):
    """index.json.

    Args:
        format: The format's name.
        version: Of the format.
        plan: The plan that the store was written by.
        count: Samples in the store.
        shards: (samples, bytes, SHA-256) of each, in order; an empty shard has no file and is (0, 0, "").
        labels_sha256: SHA-256 of labels.npy.
        spec_sha256: SHA-256 of latent_spec.json.
        mean: Per-channel mean of the raw latents, whichever the spec normalises with.
        std: Per-channel standard deviation of the raw latents, likewise.
    """

    format: Literal["fae-latent-store"] = FORMAT
    version: Literal[1, 2] = VERSION
    plan: Plan
    count: int = Field(ge=1)
    shards: tuple[tuple[int, int, str], ...]
    labels_sha256: str = ""
    spec_sha256: str = ""
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Sample(Mapping[str, Any]):
    """One sample of a store. As a mapping it has those fields that are not None, which torch's default_collate joins.

    `captions` is no item of the mapping: samples may have different numbers of them, which do not join.

    Args:
        z: The normalised latent (C, h, w).
        label: The class; None where the data have none.
        name: The name in the source, or "".
        caption: The caption, the first of several; None where the data have none.
        source: The place in the source.
        captions: All captions, in order.
    """

    z: Tensor
    label: int | None
    name: str
    caption: str | None
    source: int
    captions: tuple[str, ...] = ()

    __repr__, _repr_html_ = fields_repr, fields_html

    def __getitem__(self, name: str) -> Any:
        value = getattr(self, name) if name in _FIELDS else None
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (name for name in _FIELDS if getattr(self, name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


_FIELDS = tuple(field.name for field in fields(Sample) if field.name != "captions")


def default_shard_size(values: int, dtype: str) -> int:
    """Samples per shard so that one stays near 64 MiB, which an interruption can lose and a writer holds in memory.

    Args:
        values: Numbers in one sample.
        dtype: Name of their type, a key of `DTYPES`.

    Raises:
        DataError: Where there is no such type.
    """
    if dtype not in DTYPES:
        raise DataError(f"latents are stored as {', '.join(DTYPES)}, not as {str(dtype)[:40]}")
    bytes_per_sample = values * DTYPES[dtype].itemsize
    return max(1, min(_SHARD_SAMPLES, _SHARD_BYTES // bytes_per_sample))


def read_index(folder: Path) -> Index:
    """index.json of a store; raises DataError where the store is absent, unfinished or of another format."""
    path = folder / STORE_INDEX
    if not path.is_file():
        if (folder / STORE_PROGRESS).is_dir():
            raise DataError(f"{folder} is not finished: run the command that wrote it again with --resume")
        raise _no_store(folder, f"{STORE_INDEX} is missing")
    stored = read_json(path, max_bytes=_MAX_INDEX)
    if stored.get("format") != FORMAT:  # other folders have a file of this name, too
        raise _no_store(folder, f"{STORE_INDEX} is of another format")
    try:
        index = Index.model_validate({key: value for key, value in stored.items() if key != CHECKSUM})
    except ValidationError as error:
        raise DataError(f"{path}: {field_reasons(error.errors(), Index)}") from None
    counts = [count for count, _, _ in index.shards]
    if len(counts) != index.plan.shards or sum(counts) != index.count:
        raise DataError(f"{path}: its counts do not add up")
    if min(counts) < 0 or any(count > len(index.plan.range(shard)) for shard, count in enumerate(counts)):
        raise DataError(f"{path}: a shard has more samples than its range of the source")
    unsealed(stored, path)
    return index


def _no_store(folder: Path, reason: str) -> DataError:
    """The error about a folder that is no latent store: what else FAE made it as, or why it is none."""
    kind = kind_of(folder)
    return DataError(f"{folder} is not a latent store ({f'its kind is: {kind}' if kind else reason})")


def read_plan(folder: Path) -> Plan:
    """The plan of an unfinished store; raises InvalidFile where it is damaged."""
    return parse_config(Plan, read_json(folder / STORE_PROGRESS / STORE_PLAN), STORE_PLAN)


def map_shard(path: Path, size: int) -> dict[str, np.ndarray]:
    """The tensors of a shard as memory maps, bfloat16 as uint16. Data are read when they are used.

    Args:
        path: The shard's file.
        size: Bytes that the file must have.

    Raises:
        DataError: Where the file has another size, or its header or offsets are damaged.
    """
    try:
        found = path.stat().st_size
    except OSError:
        raise DataError(f"{path} is missing") from None
    if found != size:
        raise DataError(f"{path} is truncated or replaced: it has {found} bytes, the index says {size}")
    header, start = _read_header(path, size)
    # torch needs writable memory: mode "c" gives pages that are private and never written back.
    whole = np.asarray(np.memmap(path, dtype=np.uint8, mode="c"))  # plain arrays are cheaper to slice than memmaps
    tensors = {}
    for name, entry in header.items():
        kind, shape, (low, high) = _NUMPY_TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if high - low != math.prod(shape) * np.dtype(kind).itemsize or len(shape) > _MOST_AXES:
            raise DataError(f"{path} is not a shard: {name} has {high - low} bytes for shape {str(shape)[:80]}")
        try:
            tensors[name] = whole[start + low : start + high].view(kind).reshape(shape)
        except ValueError:  # a size beyond numpy's limits beside a size of 0
            raise DataError(f"{path} is not a shard: {name} cannot have shape {str(shape)[:80]}") from None
    return tensors


def _read_header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """The entries of the header, and the offset of the data."""
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < length <= min(_MAX_HEADER, size - 8):
            raise DataError(f"{path} is not a shard: its header is damaged")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for entry in header.values():
                low, high = entry["data_offsets"]
                known = entry["dtype"] in _NUMPY_TYPES and all(
                    type(n) is int and n >= 0 for n in (*entry["shape"], low, high)
                )
                if not known or not low <= high <= size - 8 - length:
                    raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise DataError(f"{path} is not a shard: its header is damaged") from None
    return header, 8 + length
