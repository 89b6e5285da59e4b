"""One pass over a set of images: everything that the metrics need from it, and a cache for sets that are used again."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fae_core.display import fields_html, fields_repr
from fae_core.errors import DataError, FAEError, InvalidFile
from fae_core.files import disk_errors, write_atomic
from fae_core.folders import cache_folder
from fae_core.images.spread import spread_indices
from fae_core.processes import ALONE, Processes
from fae_eval.data.samples import ContentHash, Samples
from fae_eval.extractors.base import FeatureExtractor
from fae_eval.metrics.moments import Moments

_FORMAT = "fae-features-2"


@dataclass
class FeatureSet:
    """What one pass over N images keeps.

    Attributes:
        count: N.
        image_size: (h, w).
        content: hash of the images.
        pool: features, (N, D) fp32.
        moments: exact moments of `pool`.
        spatial: moments of the spatial features; None where the network has none.
        probs: (N, classes), the softmax of its classifier; None where the network has none.
        skipped: names of images that could not be read.
    """

    count: int
    image_size: tuple[int, int]
    content: str
    pool: Tensor
    moments: Moments
    spatial: Moments | None = None
    probs: Tensor | None = None
    skipped: list[str] = field(default_factory=list)

    __repr__, _repr_html_ = fields_repr, fields_html

    def subset(self, most: int) -> Tensor:
        """At most `most` rows of `pool`, evenly spaced."""
        if self.count <= most:
            return self.pool
        return self.pool[spread_indices(self.count, most)]


def extract(
    samples: Samples,
    extractor: FeatureExtractor,
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
    group: Processes = ALONE,
) -> FeatureSet | None:
    """Run an extractor over all samples. The result has the same bits whatever the number of processes.

    Args:
        samples: the images.
        extractor: the network.
        batch_size: images of a batch.
        progress: called with the number of images of each batch.
        group: the processes, of which each takes a share.

    Returns:
        The features on the first process of the group, None on the others.

    Raises:
        DataError: where no image can be read, or images differ in size.
        FAEError: where features have another shape than the extractor says, or are not finite.
    """
    pool, probs, moments, spatial = [], [], None, None
    content, sizes, count = ContentHash(), set(), 0
    for images in samples.batches(batch_size, (group.rank, group.world_size)):
        sizes.add(images.shape[1:3])
        content.add(images)
        # cuDNN would round convolutions to TF32, and distances would differ from those of another device.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            outputs = extractor.outputs(images)
        features = outputs["pool"]
        if features.shape != (len(images), extractor.dim) or not bool(features.isfinite().all()):
            raise FAEError(f"{extractor.name} gave features of {tuple(features.shape)}, or numbers that are not finite")
        moments = (moments or Moments(features.shape[1], features.device)).add(features)
        pool.append(features.cpu())
        if "spatial" in outputs:
            spatial = (spatial or Moments(outputs["spatial"].shape[1], features.device)).add(outputs["spatial"])
        if "logits" in outputs:
            probs.append(outputs["logits"].softmax(1).cpu())
        count += len(images)
        if progress is not None:
            progress(len(images))
    widths = (spatial and spatial.dim, probs[0].shape[1] if probs else None)
    parts = group.gather(_Part(content, sizes, count, tuple(samples.skipped), *widths))
    sizes = set().union(*(part.sizes for part in parts))
    if not sizes:
        raise DataError(f"none of the {len(samples)} images of {samples.origin} can be read")
    if len(sizes) > 1:
        raise DataError(f"{samples.origin} has images of another size than the rest; give --size to crop all")
    # A process may have had no image at all. It takes part with no rows of the right width.
    moments = _all_reduced(moments or Moments(extractor.dim, group.device), group)
    rows = group.gather_rows(torch.cat(pool) if pool else torch.empty(0, extractor.dim, device="cpu"))
    spatial_dim = next((part.spatial for part in parts if part.spatial), None)
    if spatial_dim is not None:
        spatial = _all_reduced(spatial or Moments(spatial_dim, group.device), group)
    classes = next((part.classes for part in parts if part.classes), None)
    joined = (
        group.gather_rows(torch.cat(probs) if probs else torch.empty(0, classes, device="cpu")) if classes else None
    )
    if rows is None:
        return None
    skipped = [name for part in parts for name in part.skipped]
    content = ContentHash.merged(part.content for part in parts).value
    total = sum(part.count for part in parts)
    height, width = sizes.pop()
    return FeatureSet(total, (height, width), content, rows, moments, spatial, joined, skipped)


def _all_reduced(moments: Moments, group: Processes) -> Moments:
    return moments.all_reduce() if group.world_size > 1 else moments


@dataclass(frozen=True)
class _Part:
    """What one process reports of its share; `spatial` and `classes` are widths, None where it has seen none."""

    content: ContentHash
    sizes: set[tuple[int, int]]
    count: int
    skipped: tuple[str, ...]
    spatial: int | None
    classes: int | None


def extract_cached(
    samples: Samples,
    extractor: FeatureExtractor,
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
    cache: Path | None = None,
    group: Processes = ALONE,
) -> tuple[FeatureSet | None, bool]:
    """As `extract`, but with a cache.

    An entry's name is a hash of the images' content and preparation, and of all that decides what the extractor makes
    of them. Damaged entries are made again. Entries are replaced atomically: several processes may share the folder.

    Args:
        samples: the images.
        extractor: the network.
        batch_size: images of a batch.
        progress: called with the number of images of each batch.
        cache: folder of the cache; None for no cache.
        group: the processes, of which each takes a share.

    Returns:
        The features, as `extract` returns them, and whether they were in the cache.

    Raises:
        FAEError: as `extract`; before anything is measured, where the folder cannot be written.
    """
    path, key = None, None
    if cache is not None and group.is_main and (key := samples.cache_key()) is not None:
        path = cache / f"{extractor_key(extractor)}-{key}.safetensors"
    features = _load_cached(path) if path is not None else None
    if group.broadcast(features is not None):
        return features, True
    if path is not None:
        require_writable(path.parent)
    features = extract(samples, extractor, batch_size=batch_size, progress=progress, group=group)
    if path is not None and features is not None and samples.cache_key() == key:  # not changed while they were read
        save_features(features, path)
    return features, False


def extractor_key(extractor: FeatureExtractor) -> str:
    """A hash of what decides an extractor's numbers: class, network, weights, resize, and this machine's arithmetic."""
    kind = f"{type(extractor).__module__}.{type(extractor).__qualname__}"
    own = (kind, extractor.name, extractor.dim, extractor.resize, extractor.fingerprint, extractor.settings)
    device = torch.device(getattr(extractor, "device", None) or "cpu").type
    arithmetic = (device, torch.get_float32_matmul_precision(), torch.__version__)
    return hashlib.sha256(repr((*own, *arithmetic)).encode()).hexdigest()[:16]


def require_writable(folder: Path) -> None:
    """Raise FAEError where a cache cannot be written."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def _load_cached(path: Path) -> FeatureSet | None:
    try:
        return load_features(path)
    except InvalidFile:  # absent, damaged, or of an older format: measured
        return None


def default_cache() -> Path:
    """$FAE_CACHE/eval, or fae/eval below the user's cache folder."""
    return cache_folder() / "eval"


def save_features(features: FeatureSet, path: Path) -> Path:
    """Write a feature set as safetensors, whole or not at all; returns the path."""
    tensors = {"pool": features.pool.contiguous()}
    if features.probs is not None:
        tensors["probs"] = features.probs.contiguous()
    record = {
        "count": features.count,
        "image_size": features.image_size,
        "content": features.content,
        "skipped": features.skipped,
    }
    for name in ("moments", "spatial"):
        moments = getattr(features, name)
        record[name] = moments and moments.metadata()
        tensors |= {f"{name}.{n}": t.cpu().contiguous() for n, t in moments.tensors().items()} if moments else {}
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record)
    write_atomic(path, save(tensors, {"format": _FORMAT, "record": text, "digest": _digest(tensors, text)}))
    return path


def load_features(path: Path) -> FeatureSet:
    """A feature set that `save_features` wrote. Raises InvalidFile where it is absent, damaged or of another format."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if metadata.get("format") != _FORMAT:
            raise InvalidFile(f"{path} is not a {_FORMAT} file")
        if metadata.get("digest") != _digest(tensors, metadata["record"]):
            raise InvalidFile(f"{path} is damaged: its content does not match its digest")
        record = json.loads(metadata["record"])
        moments = _stored_moments(tensors, record, "moments", path)
        spatial = None if record["spatial"] is None else _stored_moments(tensors, record, "spatial", path)
        size = (int(record["image_size"][0]), int(record["image_size"][1]))
        pool, probs = tensors["pool"], tensors.get("probs")
        return FeatureSet(record["count"], size, record["content"], pool, moments, spatial, probs, record["skipped"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise InvalidFile(f"{path} cannot be read as features: {error}") from None


def _stored_moments(tensors: dict[str, Tensor], record: dict, name: str, path: Path) -> Moments:
    own = {n.removeprefix(f"{name}."): t for n, t in tensors.items() if n.startswith(f"{name}.")}
    return Moments.from_tensors(own, dict(record[name]), f"{path} ({name})")


def _digest(tensors: dict[str, Tensor], record: str) -> str:
    sha = hashlib.sha256(record.encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()
