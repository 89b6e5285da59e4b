"""One pass over a set of images: everything that the metrics need from it, and a cache for sets that serve again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fae_core.errors import CheckpointError, DataError, FAEError
from fae_core.files import write_atomic
from fae_core.training.distributed import ALONE, Processes
from fae_eval.data.samples import ContentHash, Samples, spread_indices
from fae_eval.extractors.base import FeatureExtractor
from fae_eval.metrics.moments import Moments

CACHE_VARIABLE = "FAE_CACHE"
_FORMAT = "fae-features-1"


@dataclass
class FeatureSet:
    """What one pass keeps. pool (N, D) fp32 and its moments; spatial moments and probs (N, classes) where the network has them."""

    count: int
    image_size: tuple[int, int]
    content: str
    pool: Tensor
    moments: Moments
    spatial: Moments | None = None
    probs: Tensor | None = None
    skipped: list[str] = field(default_factory=list)

    def subset(self, most: int) -> Tensor:
        """At most so many rows of `pool`, evenly spaced."""
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
    """Run the extractor over all samples; every process of the group takes a share, and only the first gets the set.

    The result has the same bits whatever the number of processes. progress: called with the number of images of each batch.
    """
    pool, probs, moments, spatial = [], [], None, None
    content, sizes, count = ContentHash(), set(), 0
    for images in samples.batches(batch_size, (group.rank, group.world_size)):
        sizes.add(images.shape[1:3])
        content.add(images)
        # cuDNN would round convolutions to TF32, and distances to another device's would follow.
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
    # A process may have had no image at all, and takes part with nothing of the right width.
    moments = _all_reduced(moments or Moments(extractor.dim, group.device), group)
    rows = group.gather_rows(torch.cat(pool) if pool else torch.empty(0, extractor.dim))
    spatial_dim = next((part.spatial for part in parts if part.spatial), None)
    if spatial_dim is not None:
        spatial = _all_reduced(spatial or Moments(spatial_dim, group.device), group)
    classes = next((part.classes for part in parts if part.classes), None)
    joined = group.gather_rows(torch.cat(probs) if probs else torch.empty(0, classes)) if classes else None
    if rows is None:
        return None
    skipped = [name for part in parts for name in part.skipped]
    content = ContentHash.merged(part.content for part in parts).value
    total = sum(part.count for part in parts)
    return FeatureSet(total, tuple(sizes.pop()), content, rows, moments, spatial, joined, skipped)


def _all_reduced(moments: Moments, group: Processes) -> Moments:
    return moments.all_reduce() if group.world_size > 1 else moments


@dataclass(frozen=True)
class _Part:
    """What one process tells the others about its share; spatial and classes are widths, None where it has seen none."""

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
    """As `extract`, but looks into the cache folder first; returns whether it was found there.

    An entry's name is a hash of the extractor's weights and resize and of the images' names, sizes and times of change, so a
    changed set is measured again. cache: a folder, None for none.
    """
    if cache is None or samples.cache_key is None:
        return extract(samples, extractor, batch_size=batch_size, progress=progress, group=group), False
    path = cache / f"{extractor.fingerprint}-{_short_hash(extractor.resize)}-{samples.cache_key}.safetensors"
    features = _load_cached(path) if group.is_main else None
    if group.broadcast(features is not None):
        return features, True
    features = extract(samples, extractor, batch_size=batch_size, progress=progress, group=group)
    if features is not None:
        save_features(features, path)
    return features, False


def _load_cached(path: Path) -> FeatureSet | None:
    if not path.is_file():
        return None
    try:
        return load_features(path)
    except CheckpointError:
        path.unlink()  # damaged or of an older format: measured again
        return None


def default_cache() -> Path:
    """$FAE_CACHE/eval, or fae/eval below the user's cache folder."""
    root = os.environ.get(CACHE_VARIABLE)
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fae"
    return base / "eval"


def save_features(features: FeatureSet, path: Path) -> Path:
    """Write a feature set as safetensors."""
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
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(tensors, {"format": _FORMAT, "record": json.dumps(record)}))
    return path


def load_features(path: Path) -> FeatureSet:
    """Read what `save_features` wrote. Raises CheckpointError."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if metadata.get("format") != _FORMAT:
            raise CheckpointError(f"{path} is not a {_FORMAT} file")
        record = json.loads(metadata["record"])
        moments, spatial = (_stored_moments(tensors, record, name, path) for name in ("moments", "spatial"))
        size = (int(record["image_size"][0]), int(record["image_size"][1]))
        pool, probs = tensors["pool"], tensors.get("probs")
        return FeatureSet(record["count"], size, record["content"], pool, moments, spatial, probs, record["skipped"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as features: {error}") from None


def _stored_moments(tensors: dict[str, Tensor], record: dict, name: str, path: Path) -> Moments | None:
    if record[name] is None:
        return None
    own = {n.removeprefix(f"{name}."): t for n, t in tensors.items() if n.startswith(f"{name}.")}
    return Moments.from_tensors(own, record[name], f"{path} ({name})")


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
