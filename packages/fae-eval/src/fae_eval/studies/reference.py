"""The reference side of a comparison: statistics that a file carries, or features of real images, cached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fae_core.errors import FAEError
from fae_core.files import sha256_file
from fae_core.processes import ALONE, Processes
from fae_eval.data.adm import image_size, members, read_about, read_adm_statistics
from fae_eval.data.samples import Samples, open_samples
from fae_eval.extractors.base import FeatureExtractor
from fae_eval.features import FeatureSet, extract_cached
from fae_eval.metrics.frechet import GaussianFactor
from fae_eval.metrics.moments import Moments


@dataclass
class Reference:
    """What samples are compared with.

    Attributes:
        pool: Gaussian of the features, factored once.
        spatial: Gaussian of the spatial features; None where they are not needed.
        features: of the reference's images; None where only statistics are used.
        image_size: (h, w); None where only statistics are known.
        facts: for the record (source, what the file says it is, count, hash, where the statistics come from).
        carries_statistics: whether the file holds ADM's statistics.
        by_pytorch_fid: whether the statistics that are used lack the spatial ones, as in pytorch-fid's files.
    """

    pool: GaussianFactor
    spatial: GaussianFactor | None
    features: FeatureSet | None
    image_size: tuple[int, int] | None
    facts: dict[str, Any]
    carries_statistics: bool
    by_pytorch_fid: bool = False


@dataclass
class KeptReference:
    """A reference that several calls of `evaluate` share: the first of each extractor opens it, as that call wants it.

    Attributes:
        source: real images, as `evaluate` takes them.
        opened: by an extractor's name the reference on the first process, None on the others.
    """

    source: Any
    opened: dict[str, Reference | None] = field(default_factory=dict)


def open_reference(
    source: Any,
    extractor: FeatureExtractor,
    *,
    need_features: bool,
    need_spatial: bool = False,
    size: int | tuple[int, int] | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    cache: Path | None = None,
    progress: Callable[[int], None] | None = None,
    group: Processes = ALONE,
) -> Reference | None:
    """The reference of a comparison.

    ADM's statistics in a file are those of the official Inception, and are used with it alone. Images are then read
    only where features are needed.

    Args:
        source: anything `open_samples` takes, or an .npz with ADM's statistics.
        extractor: the network.
        need_features: whether the metrics need the features themselves.
        need_spatial: whether they need the spatial features' statistics.
        size: side, or (h, w), of a centre crop; None takes images as they are.
        limit: most images, evenly spread.
        batch_size: images of a batch.
        cache: folder of the cache of features; None for no cache.
        progress: called with the number of images of each batch.
        group: the processes, of which each reads a share of the images.

    Returns:
        The reference on the first process of the group, None on the others.

    Raises:
        FAEError: where a file has statistics only and the metrics need more, or statistics of another width.
    """
    stored, names, about = None, set(), None
    path = Path(source) if isinstance(source, (str, Path)) else None
    if path is not None and path.suffix == ".npz" and path.is_file():
        stored, names, about = read_adm_statistics(path), members(path), read_about(path)
    usable = stored if extractor.official_inception else None
    if usable is not None and usable.mu.size != extractor.dim:
        raise FAEError(f"{path} has statistics of {usable.mu.size} dimensions, {extractor.name} has {extractor.dim}")
    if stored is not None and usable is None and "arr_0" not in names:
        raise FAEError(f"{path} holds only Inception's statistics; {extractor.name} needs images")
    origin = source.origin if isinstance(source, Samples) else str(path or type(source).__name__)
    facts: dict[str, Any] = {"source": origin} | ({} if about is None else {"about": about})
    features = None
    missing_spatial = need_spatial and (stored is None or stored.mu_s is None)
    if usable is None or need_features or missing_spatial:
        if usable is not None and "arr_0" not in names:
            raise FAEError(
                f"{path} holds statistics only; these metrics need its images too: leave out precision, recall, kernel"
            )
        samples = open_samples(source, size=size, limit=limit)
        features, cached = extract_cached(
            samples, extractor, batch_size=batch_size, cache=cache, progress=progress, group=group
        )
        if features is None:
            return None
        facts |= {"count": features.count, "hash": features.content, "size": "x".join(map(str, features.image_size))}
        facts |= {"preparation": samples.preparation, "cached": cached}
        if features.skipped:
            facts["unreadable"] = len(features.skipped)
    if not group.is_main:
        return None
    if usable is not None and path is not None:
        facts |= {"statistics": "from the file", "file_sha256": sha256_file(path)[:16]}
        pool = GaussianFactor.of(usable.mu, usable.sigma)
    else:
        assert features is not None
        facts |= {"statistics": "computed", "moments": features.moments.digest}
        pool = gaussian(features.moments)
    spatial = None
    if need_spatial and usable is not None and usable.mu_s is not None:
        spatial = GaussianFactor.of(usable.mu_s, usable.sigma_s)
    elif need_spatial and features is not None and features.spatial is not None:
        spatial = gaussian(features.spatial)
    shown = features.image_size if features is not None else image_size(path) if path is not None else None
    by_pytorch_fid = usable is not None and usable.mu_s is None
    return Reference(pool, spatial, features, shown, facts, stored is not None, by_pytorch_fid)


def gaussian(moments: Moments) -> GaussianFactor:
    """The Gaussian of exact moments."""
    return GaussianFactor.of(moments.mean.cpu().numpy(), moments.covariance.cpu().numpy())
