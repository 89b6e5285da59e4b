"""Samples against a reference: the generation protocol, from anything that holds images to one result record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fae_core.errors import FAEError, UnknownName
from fae_eval import protocol
from fae_eval.data.samples import Samples, open_samples
from fae_eval.extractors import DEFAULT, FeatureExtractor, load_extractor
from fae_eval.extractors.base import UINT8_RULE
from fae_eval.features import FeatureSet, extract_cached
from fae_eval.metrics.frechet import frechet_distance
from fae_eval.metrics.inception_score import inception_score
from fae_eval.metrics.kernel import kernel_distance
from fae_eval.metrics.precision_recall import precision_recall
from fae_eval.reference import Reference, gaussian, open_reference
from fae_eval.results import Result, provenance

METRICS = ("frechet", "spatial", "inception_score", "precision_recall", "kernel")
_ALIASES = {
    "fid": "frechet",
    "fd": "frechet",
    "sfid": "spatial",
    "is": "inception_score",
    "pr": "precision_recall",
    "kid": "kernel",
}
SPLIT_SIZE = 5000
FLOOR = "real vs real (floor)"


def evaluate(
    samples: Any,
    reference: Any,
    *,
    metrics: Sequence[str] | None = None,
    extractor: str | FeatureExtractor = DEFAULT,
    weights: str | Path | None = None,
    size: int | tuple[int, int] | None = None,
    floor: Any = None,
    decoder: Any = None,
    purpose: Literal["generation", "reconstruction"] = "generation",
    label_sampling: str = "not stated",
    k: int = 3,
    pr_precision: Literal["fp32", "adm"] = "fp32",
    pr_reference: int = 10_000,
    kernel_subsets: int = 100,
    seed: int = 2020,
    limit: int | None = None,
    batch_size: int = 32,
    device: str | None = None,
    cache: str | Path | None = None,
    title: str | None = None,
    progress: Any = None,
) -> Result:
    """Measure samples against a reference and say exactly how.

    samples, reference: anything `fae_eval.data.open_samples` takes; samples may be a mapping name -> source, one row each.
    metrics: of METRICS (or fid, sfid, is, pr, kid); default: ADM's five with Inception, else Frechet, precision and recall.
    extractor: see `load_extractor`. Only the official Inception's Frechet distance is called FID; others are FD-<name>.
    size: centre-crop both sides; floor: more real images, disjoint from the reference, for a real-vs-real row.
    label_sampling: how classes were drawn (random, equal, ...): it moves FID by about 0.1, so it is recorded.
    k, pr_precision, pr_reference: neighbours, "fp32" or ADM's fp16 blocks, and how many reference images precision and recall use.
    seed: of the kernel distance's subsets. limit: at most so many images of each set, evenly spread over it. cache: a folder for reference features.
    progress: `fae_core.progress.progress`, or anything called like it. Raises FAEError.
    """
    started = time.monotonic()
    extractor = load_extractor(extractor, weights=weights, device=device)
    chosen = choose_metrics(metrics, extractor)
    sets = dict(samples) if isinstance(samples, Mapping) else {"samples": samples}
    if not sets:
        raise FAEError("there are no samples to measure")
    if floor is not None:
        sets[FLOOR] = floor
    # Opened before any network runs, so that a wrong path is told at once.
    opened_sets = {name: open_samples(source, size=size, decoder=decoder, limit=limit) for name, source in sets.items()}
    run = _Runner(extractor, batch_size, progress)
    need_features = bool({"precision_recall", "kernel"} & set(chosen))
    cache = Path(cache) if cache is not None else None
    real = run.reference(
        reference,
        need_features=need_features,
        need_spatial="spatial" in chosen,
        size=size,
        limit=limit,
        cache=cache,
    )
    columns, rows, values, facts, warned = ["", "images"], [], {}, {}, {}
    warnings = protocol.purpose_warnings(purpose, real.carries_statistics)
    for name, opened in opened_sets.items():
        features = run.features(opened, name, cache if name == FLOOR else None)
        measured = _measure(
            features, real, chosen, extractor, purpose, k, pr_precision, pr_reference, kernel_subsets, seed
        )
        columns = ["", "images", *measured]
        rows.append([name, features.count, *measured.values()])
        values |= {
            (label if len(sets) == 1 or name == "samples" else f"{name}: {label}"): v for label, v in measured.items()
        }
        facts[name] = _facts(opened, features)
        for warning in _warnings(opened, features, real, chosen, extractor, name):
            warned.setdefault(warning, []).append(name)
    warnings += [f"{', '.join(names)}: {warning}" for warning, names in warned.items()]
    record = provenance(
        device=getattr(extractor, "device", None),
        seed=seed,
        extractor={"name": extractor.name, "weights": extractor.fingerprint, "resize": extractor.resize},
        reference=real.facts,
        **{"samples" if name == "samples" else f"samples {name}": fact for name, fact in facts.items()},
        label_sampling=label_sampling,
        uint8_rule=UINT8_RULE,
        seconds=round(time.monotonic() - started, 1),
    )
    if "precision_recall" in chosen and real.features is not None:
        used = min(pr_reference, real.features.count)
        record["precision_recall"] = {"precision": pr_precision, "k": k, "reference_images": used}
    if "kernel" in chosen:
        record["kernel"] = {"subsets": kernel_subsets, "subset_size": 1000, "seed": seed}
    notes = (
        []
        if extractor.official_inception
        else [f"FD-{extractor.name} is not FID: compare it only with values of the same extractor."]
    )
    heading = title or (
        "Reconstructions against originals" if purpose == "reconstruction" else "Samples against the reference"
    )
    return Result(purpose, heading, {"columns": columns, "rows": rows}, [], notes, warnings, values, record)


def choose_metrics(metrics: Sequence[str] | None, extractor: FeatureExtractor) -> list[str]:
    """Full names, in METRICS' order. Raises UnknownName."""
    if metrics is None:
        return list(METRICS[:4]) if extractor.official_inception else ["frechet", "precision_recall"]
    wanted = {_ALIASES.get(name.lower(), name.lower()) for name in metrics}
    for name in wanted - set(METRICS):
        raise UnknownName("metric", name, [*METRICS, *_ALIASES])
    return [name for name in METRICS if name in wanted]


def metric_labels(extractor: FeatureExtractor, purpose: str = "generation") -> dict[str, str]:
    """What each metric may be called with this extractor."""
    if extractor.official_inception:
        frechet = "rFID" if purpose == "reconstruction" else "FID"
        return {"frechet": frechet, "spatial": "sFID", "inception_score": "IS", "kernel": "KID"}
    prefix = "r" if purpose == "reconstruction" else ""
    names = {"frechet": f"{prefix}FD", "spatial": "sFD", "inception_score": "IS", "kernel": "KD"}
    return {metric: f"{label}-{extractor.name}" for metric, label in names.items()}


class _Runner:
    """Extraction with progress bars."""

    def __init__(self, extractor: FeatureExtractor, batch_size: int, progress: Any) -> None:
        self.extractor, self.batch_size, self.progress = extractor, batch_size, progress

    def features(self, samples: Samples, name: str, cache: Path | None) -> FeatureSet:
        if self.progress is None:
            return extract_cached(samples, self.extractor, batch_size=self.batch_size, cache=cache)[0]
        with self.progress(len(samples), f"features of {name}") as bar:
            return extract_cached(
                samples, self.extractor, batch_size=self.batch_size, cache=cache, progress=bar.advance
            )[0]

    def reference(self, source: Any, *, size: Any, limit: int | None, **options: Any) -> Reference:
        options |= {"size": size, "limit": limit, "batch_size": self.batch_size}
        if self.progress is None:
            return open_reference(source, self.extractor, **options)
        holds_images = not (isinstance(source, (str, Path)) and str(source).endswith(".npz"))
        total = len(open_samples(source, size=size, limit=limit)) if holds_images else 0
        with self.progress(total, "features of the reference", enabled=holds_images) as bar:
            return open_reference(source, self.extractor, progress=bar.advance, **options)


def _measure(
    features: FeatureSet,
    real: Reference,
    chosen: list[str],
    extractor: FeatureExtractor,
    purpose: str,
    k: int,
    pr_precision: Any,
    pr_reference: int,
    kernel_subsets: int,
    seed: int,
) -> dict[str, float]:
    labels, measured = metric_labels(extractor, purpose), {}
    for metric in chosen:
        if metric == "frechet":
            measured[labels[metric]] = frechet_distance(real.pool, mu2=gaussian(features.moments))
        elif metric == "spatial":
            if real.spatial is None or features.spatial is None:
                raise FAEError(
                    f"{extractor.name} has no spatial features; the spatial distance needs the extractor inception"
                )
            measured[labels[metric]] = frechet_distance(real.spatial, mu2=gaussian(features.spatial))
        elif metric == "inception_score":
            if features.probs is None:
                raise FAEError(f"{extractor.name} has no classifier; the inception score needs one")
            measured[labels[metric]] = inception_score(features.probs.numpy(), split_size=SPLIT_SIZE)
        elif metric == "precision_recall":
            pair = precision_recall(real.features.subset(pr_reference), features.pool, k, precision=pr_precision)
            measured["precision"], measured["recall"] = pair
        elif metric == "kernel":
            pair = kernel_distance(real.features.pool.numpy(), features.pool.numpy(), subsets=kernel_subsets, seed=seed)
            measured[labels[metric]] = pair[0]
    return measured


def _facts(samples: Samples, features: FeatureSet) -> dict[str, Any]:
    return {
        "source": samples.origin,
        "count": features.count,
        "hash": features.content,
        "size": f"{features.image_size[0]}x{features.image_size[1]}",
        "preparation": samples.preparation,
        "moments": features.moments.digest,
    }


def _warnings(
    samples: Samples, features: FeatureSet, real: Reference, chosen: list[str], extractor: FeatureExtractor, name: str
) -> list[str]:
    reference_size = real.features.image_size if real.features else None
    warnings = protocol.size_warnings(features.image_size, reference_size)
    if {"frechet", "spatial"} & set(chosen):
        warnings += protocol.count_warnings(features.count, extractor.dim)
    if "inception_score" in chosen and features.probs is not None:
        labels = samples.labels if samples.labels and len(samples.labels) == features.count else None
        warnings += protocol.order_warnings(labels, features.probs, SPLIT_SIZE)
    jpeg = samples.jpeg if name != FLOOR else 0
    return warnings + protocol.format_warnings(jpeg, features.count, features.skipped)
