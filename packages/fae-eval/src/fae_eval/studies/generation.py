"""Samples against a reference: the protocol of generation, from any source of images to one result record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from fae_core.errors import FAEError
from fae_core.processes import Processes, processes
from fae_eval import warnings as protocol
from fae_eval.data.kept import KeptSamples
from fae_eval.data.samples import Samples, open_samples, share_size
from fae_eval.extractors import DEFAULT, FeatureExtractor, load_extractor
from fae_eval.extractors.base import UINT8_RULE
from fae_eval.features import FeatureSet, extract_cached
from fae_eval.metrics.neighbours import shared_rows
from fae_eval.results import FLOOR, RELATIVE, Result, provenance
from fae_eval.studies.bars import Progress, advancing
from fae_eval.studies.chosen_metrics import (
    DENSITY_NEIGHBOURS,
    KERNEL_SUBSET,
    OF_FEATURES,
    SPLIT_SIZE,
    Asked,
    choose_metrics,
    measure,
    metric_labels,
)
from fae_eval.studies.judges import put_beside, require_different
from fae_eval.studies.reference import KeptReference, Reference, open_reference

_ROUNDING = 1e-9  # of the largest distance


def evaluate(
    samples: Any,
    reference: Any,
    *,
    metrics: str | Sequence[str] | None = None,
    extractor: str | FeatureExtractor = DEFAULT,
    also: str | FeatureExtractor | Sequence[str | FeatureExtractor] = (),
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
    survey: str | Path | None = None,
    batch_size: int = 32,
    device: str | None = None,
    cache: str | Path | None = None,
    title: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Measure samples against a reference and record exactly how.

    Under torchrun every process takes a share of each set. All return the same record, bit for bit that of a single
    process with the same batch size.

    Args:
        samples: anything `fae_eval.data.open_samples` takes, or a mapping name -> source with one row each.
        reference: real images, anything `open_samples` takes, or an .npz with ADM's statistics; as a `KeptReference` it
            is opened once for several calls.
        metrics: one or several of METRICS (or fid, sfid, is, pr, dc, kid); None for ADM's five with Inception, else
            frechet and pr.
        extractor: see `load_extractor`; only the official Inception's Frechet distance is called FID, others FD-<name>.
        also: one or several further extractors, such as a judge that is no relative of an encoder: each measures a
            Frechet distance of its own on the same images, which are drawn once.
        weights: local file of the weights of `extractor`.
        size: side, or (h, w), of a centre crop of all images; None takes them as they are.
        floor: more real images, disjoint from the reference, for a row of real against real, and for the column FDr:
            Frechet distances divided by that row's. Of images in files and arrays as many are taken as the largest set
            of samples has, evenly spread: fewer images are further away, whatever they show.
        decoder: a tokenizer that decodes latent stores.
        purpose: "reconstruction" calls the distance rFID or rFD.
        label_sampling: how classes were drawn (random, equal, ...); it moves FID by about 0.1, so it is recorded.
        k: neighbours of precision and recall.
        pr_precision: "fp32", or "adm" for ADM's fp16 blocks, in precision and recall.
        pr_reference: how many images of the reference precision and recall, density and coverage use.
        kernel_subsets: how many subsets the kernel distance compares.
        seed: of these subsets.
        limit: most images of each set, evenly spread over it; a Samples is taken whole.
        survey: a report of `fae check` on the reference's images.
        batch_size: images of a batch.
        device: of what is loaded; cuda where there is one.
        cache: folder for features of the reference; None for no cache.
        title: heading of the record.
        progress: `fae_core.progress.progress`, or anything called like it.

    Raises:
        FAEError: for unknown metrics, images that cannot be read, and statistics that the metrics cannot use.
    """
    with processes(device) as group:
        asked = Asked(purpose, k, pr_precision, pr_reference, kernel_subsets, seed)
        asked.check(batch_size)
        network = load_extractor(extractor, weights=weights, device=group.device)
        judges = [also] if isinstance(also, str | FeatureExtractor) else also
        others = [load_extractor(one, device=group.device) for one in judges]
        require_different([network.name, *(other.name for other in others)])
        sets = dict(samples) if isinstance(samples, Mapping) else {"samples": samples}
        if not sets:
            raise FAEError("there are no samples to measure")
        # Opened before any network runs, so that a wrong path is reported before long work.
        opened = {name: open_samples(source, size=size, decoder=decoder, limit=limit) for name, source in sets.items()}
        if floor is not None:
            opened[FLOOR] = open_floor(floor, max(map(len, opened.values())), size=size, limit=limit, decoder=decoder)
        if others:
            opened = {name: KeptSamples.of(one) for name, one in opened.items()}
            if not isinstance(reference, (str, Path, KeptReference)):  # perhaps a stream, which is read once
                reference = KeptSamples.of(
                    open_samples(reference, size=size, limit=limit, survey=survey, decoder=decoder)
                )
                survey = None
        cache = Path(cache) if cache is not None else None

        def measured_by(judge: FeatureExtractor, chosen: list[str]) -> Result | None:
            table = _Table(judge, chosen, asked, alone=len(opened) == 1)
            run = _Runner(judge, batch_size, progress, group)
            real = run.reference(
                reference,
                need_features=bool(OF_FEATURES & set(chosen)),
                need_spatial="spatial" in chosen,
                size=size,
                limit=limit,
                survey=survey,
                decoder=decoder,
                cache=cache,
            )
            for name, one in opened.items():
                features = run.features(one, name, cache if name == FLOOR else None)
                if features is not None and real is not None:
                    table.add(name, one, features, real)
            return table.result(real, title, label_sampling) if real is not None else None

        result = measured_by(network, choose_metrics(metrics, network))
        for other in others:
            second = measured_by(other, ["frechet"])
            if result is not None and second is not None:
                put_beside(result, second, other.name)
        if result is not None and group.world_size > 1:
            result.provenance["processes"] = group.world_size
        result = group.broadcast(result)
        assert isinstance(result, Result)
        return result


class _Table:
    """The record that is being filled, one row per set of samples."""

    def __init__(self, extractor: FeatureExtractor, chosen: list[str], asked: Asked, *, alone: bool) -> None:
        self.extractor, self.chosen, self.asked, self.alone = extractor, chosen, asked, alone
        self.started = time.monotonic()
        self.columns: list[str] = ["", "images"]
        self.rows: list[list[Any]] = []
        self.values: dict[str, float] = {}
        self.facts: dict[str, Any] = {}
        self.warned: dict[str, list[str]] = {}

    def add(self, name: str, samples: Samples, features: FeatureSet, real: Reference) -> None:
        measured = measure(features, real, self.chosen, self.extractor, self.asked)
        self.columns = ["", "images", *measured]
        self.rows.append([name, features.count, *measured.values()])
        self.values |= {
            label if self._is_plain(name) else f"{name}: {label}": value for label, value in measured.items()
        }
        self.facts["samples" if name == "samples" else f"samples {name}"] = _facts(samples, features)
        for warning in _warnings(samples, features, real, self.chosen, self.extractor, name):
            self.warned.setdefault(warning, []).append(name)

    def _is_plain(self, name: str) -> bool:
        """Whether the values of a row go without its name."""
        return self.alone or name == "samples"

    def result(self, real: Reference, title: str | None, label_sampling: str) -> Result:
        extractor, asked = self.extractor, self.asked
        record = provenance(
            device=getattr(extractor, "device", None),
            seed=asked.seed,
            extractor={"name": extractor.name, "weights": extractor.fingerprint, "resize": extractor.resize},
            reference=real.facts,
            **self.facts,
            label_sampling=label_sampling,
            uint8_rule=UINT8_RULE,
            seconds=round(time.monotonic() - self.started, 1),
        )
        if "precision_recall" in self.chosen and real.features is not None:
            used = min(asked.pr_reference, real.features.count)
            record["precision_recall"] = {"precision": asked.pr_precision, "k": asked.k, "reference_images": used}
        if "density_coverage" in self.chosen and real.features is not None:
            used = min(asked.pr_reference, real.features.count)
            record["density_coverage"] = {"k": DENSITY_NEIGHBOURS, "reference_images": used}
        if "kernel" in self.chosen and real.features is not None:
            size = min(KERNEL_SUBSET, real.features.count, *(row[1] for row in self.rows))
            record["kernel"] = {"subsets": asked.kernel_subsets, "subset_size": size, "seed": asked.seed}
        notes = [f"FD-{extractor.name} is not FID: compare it only with values of the same extractor."]
        warnings = protocol.purpose_warnings(asked.purpose, real.carries_statistics)
        warnings += protocol.resize_warnings(real.by_pytorch_fid)
        if real.features is not None:
            left_out = protocol.format_warnings(0, real.features.count, real.features.skipped)
            warnings += [f"reference: {warning}" for warning in left_out]
        warnings += [f"{', '.join(names)}: {warning}" for warning, names in self.warned.items()]
        rebuilt = asked.purpose == "reconstruction"
        if relate_to_floor(self.columns, self.rows, metric_labels(extractor, asked.purpose)["frechet"]):
            counts = {row[0]: row[1] for row in self.rows}
            warnings += protocol.floor_warnings(counts.pop(FLOOR), counts)
            for row in self.rows:
                name = RELATIVE if self._is_plain(row[0]) else f"{row[0]}: {RELATIVE}"
                self.values[name] = row[self.columns.index(RELATIVE)]
        heading = title or ("Reconstructions against originals" if rebuilt else "Samples against the reference")
        table = {"columns": self.columns, "rows": self.rows}
        notes = [] if extractor.official_inception else notes
        return Result(asked.purpose, heading, table, [], notes, warnings, self.values, record)


def open_floor(floor: Any, count: int, *, limit: int | None = None, **options: Any) -> Samples:
    """Real images that are measured like samples: at most as many as there are samples.

    Args:
        floor: anything that `open_samples` takes; a Samples is taken whole.
        count: of the samples.
        limit: most images.
        **options: as in `open_samples` (size, decoder).
    """
    return open_samples(floor, limit=count if limit is None else min(limit, count), **options)


def relate_to_floor(columns: list[str], rows: list[list[Any]], distance: str) -> bool:
    """Put the column FDr, a distance divided by the floor's, before the distances; False without a floor above 0.

    The distance of a set from itself is 0 but for rounding: a floor that is nothing beside the largest distance counts
    as 0.

    Args:
        columns: of a table; changed.
        rows: of that table, the floor's among them; changed.
        distance: the name of the column of distances.
    """
    floor = next((row for row in rows if row[0] == FLOOR), None)
    if floor is None or distance not in columns:
        return False
    at = columns.index(distance)
    real = floor[at]
    if not real > _ROUNDING * max(row[at] for row in rows):
        return False
    for row in rows:
        row.insert(at, row[at] / real)
    columns.insert(at, RELATIVE)
    return True


class _Runner:
    """Extraction by all processes, with a progress bar on the first."""

    def __init__(
        self, extractor: FeatureExtractor, batch_size: int, progress: Progress | None, group: Processes
    ) -> None:
        self.extractor, self.progress = extractor, progress
        self.batch_size, self.group = batch_size, group
        self.options: dict[str, Any] = {"batch_size": batch_size, "group": group}

    def features(self, samples: Samples, name: str, cache: Path | None) -> FeatureSet | None:
        with self._bar(samples, f"features of {name}") as advance:
            return extract_cached(samples, self.extractor, cache=cache, progress=advance, **self.options)[0]

    def reference(
        self, source: Any, *, size: Any, limit: int | None, survey: str | Path | None, decoder: Any, **options: Any
    ) -> Reference | None:
        if isinstance(source, KeptReference):
            name = self.extractor.name
            if name not in source.opened:
                kept = self.reference(source.source, size=size, limit=limit, survey=survey, decoder=decoder, **options)
                source.opened[name] = kept
            return source.opened[name]
        options |= {"size": size, "limit": limit, **self.options}
        if isinstance(source, (str, Path)) and str(source).endswith(".npz"):  # perhaps statistics and no images
            if survey is not None:
                raise FAEError(f"{source} is one file of images; a survey is not needed, leave --survey out")
            return open_reference(source, self.extractor, **options)
        samples = open_samples(source, size=size, limit=limit, survey=survey, decoder=decoder)
        with self._bar(samples, "features of the reference") as advance:
            return open_reference(samples, self.extractor, progress=advance, **options)

    def _bar(self, samples: Samples, description: str) -> AbstractContextManager[Callable[[int], None]]:
        total = share_size(len(samples), self.batch_size, (self.group.rank, self.group.world_size))
        return advancing(self.progress, total, description, enabled=self.group.is_main)


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
    warnings = protocol.size_warnings(features.image_size, real.image_size)
    if {"frechet", "spatial"} & set(chosen):
        warnings += protocol.count_warnings(features.count, extractor.dim)
    if "inception_score" in chosen and features.probs is not None:
        labels = samples.labels if samples.labels and len(samples.labels) == features.count else None
        warnings += protocol.split_warnings(features.count, SPLIT_SIZE)
        warnings += protocol.order_warnings(labels, features.probs, SPLIT_SIZE)
    if name == FLOOR and real.features is not None:
        warnings += protocol.overlap_warnings(shared_rows(features.pool, real.features.pool), features.count)
    jpeg = samples.jpeg if name != FLOOR else 0
    return warnings + protocol.format_warnings(jpeg, features.count, features.skipped)
