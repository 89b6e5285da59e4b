"""The reference side of a comparison: statistics that a file carries, or features of real images, cached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fae_core.errors import FAEError
from fae_core.files import sha256_file
from fae_core.processes import ALONE, Processes
from fae_eval.data.adm import image_size, members, read_adm_statistics
from fae_eval.data.samples import Samples, open_samples
from fae_eval.extractors.base import FeatureExtractor
from fae_eval.features import FeatureSet, extract_cached
from fae_eval.metrics.frechet import GaussianFactor


@dataclass
class Reference:
    """What samples are compared with.

    pool, spatial: Gaussians, factored once. features: of its images, None where only statistics are known.
    image_size: (h, w), None where only statistics are known. facts: for the record (source, count, hash, where the statistics come from).
    """

    pool: GaussianFactor
    spatial: GaussianFactor | None
    features: FeatureSet | None
    image_size: tuple[int, int] | None
    facts: dict[str, Any]
    carries_statistics: bool


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
    """The reference in `source`: anything `open_samples` takes, or an .npz with ADM's statistics.

    Statistics in the file are used where the extractor is the official Inception, whose they are; its images are read only where
    features are needed, by all processes of the group; only the first gets the reference. Raises FAEError where a file has statistics only and the metrics need more.
    """
    stored, names = None, set()
    path = Path(source) if isinstance(source, (str, Path)) else None
    if path is not None and path.suffix == ".npz" and path.is_file():
        stored, names = read_adm_statistics(path), members(path)
    usable = stored is not None and extractor.official_inception
    if usable and stored.mu.size != extractor.dim:
        raise FAEError(f"{path} has statistics of {stored.mu.size} dimensions, {extractor.name} has {extractor.dim}")
    if stored is not None and not usable and "arr_0" not in names:
        raise FAEError(f"{path} holds only Inception's statistics; {extractor.name} needs images")
    opened = isinstance(source, Samples)
    facts: dict[str, Any] = {"source": source.origin if opened else str(path or type(source).__name__)}
    features = None
    missing_spatial = need_spatial and (stored is None or stored.mu_s is None)
    if not usable or need_features or missing_spatial:
        if usable and "arr_0" not in names:
            raise FAEError(
                f"{path} holds statistics only; these metrics need its images too: leave out precision, recall, kernel"
            )
        samples = open_samples(source, size=size, limit=limit)
        how = {"batch_size": batch_size, "cache": cache, "progress": progress, "group": group}
        features, cached = extract_cached(samples, extractor, **how)
        if features is None:
            return None
        facts |= {"count": features.count, "hash": features.content, "size": _size_text(features.image_size)}
        facts |= {"preparation": samples.preparation, "cached": cached}
        if features.skipped:
            facts["unreadable"] = len(features.skipped)
    if not group.is_main:
        return None
    if usable:
        facts |= {"statistics": "from the file", "file_sha256": sha256_file(path)[:16]}
        pool = GaussianFactor.of(stored.mu, stored.sigma)
    else:
        facts |= {"statistics": "computed", "moments": features.moments.digest}
        pool = gaussian(features.moments)
    spatial = None
    if need_spatial:
        if usable and stored.mu_s is not None:
            spatial = GaussianFactor.of(stored.mu_s, stored.sigma_s)
        elif features.spatial is not None:
            spatial = gaussian(features.spatial)
    shown = features.image_size if features is not None else image_size(path) if path is not None else None
    return Reference(pool, spatial, features, shown, facts, stored is not None)


def gaussian(moments: Any) -> GaussianFactor:
    """Moments as a factored Gaussian."""
    return GaussianFactor.of(moments.mean.cpu().numpy(), moments.covariance.cpu().numpy())


def _size_text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
