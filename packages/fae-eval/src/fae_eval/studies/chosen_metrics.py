"""The metrics of a comparison of images: their names, and their values for one set of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fae_core.errors import FAEError, UnknownName
from fae_eval.extractors import FeatureExtractor
from fae_eval.features import FeatureSet
from fae_eval.metrics.density_coverage import density_coverage
from fae_eval.metrics.frechet import frechet_distance
from fae_eval.metrics.inception_score import inception_score
from fae_eval.metrics.kernel import kernel_distance
from fae_eval.metrics.precision_recall import precision_recall
from fae_eval.studies.metric_names import METRICS, full_names
from fae_eval.studies.reference import Reference, gaussian

SPLIT_SIZE = 5000
KERNEL_SUBSET = 1000
DENSITY_NEIGHBOURS = 5  # of the paper of density and coverage
OF_FEATURES = {"precision_recall", "density_coverage", "kernel"}  # metrics that need the features themselves


def choose_metrics(metrics: str | Sequence[str] | None, extractor: FeatureExtractor) -> list[str]:
    """Full names of metrics, in the order of METRICS; None for those that suit the extractor. Raises UnknownName."""
    if metrics is None:
        return list(METRICS[:4]) if extractor.official_inception else ["frechet", "precision_recall"]
    return full_names(metrics)


def metric_labels(extractor: FeatureExtractor, purpose: str = "generation") -> dict[str, str]:
    """The label of each metric with this extractor; `purpose` is "generation" or "reconstruction"."""
    if extractor.official_inception:
        frechet = "rFID" if purpose == "reconstruction" else "FID"
        return {"frechet": frechet, "spatial": "sFID", "inception_score": "IS", "kernel": "KID"}
    prefix = "r" if purpose == "reconstruction" else ""
    names = {"frechet": f"{prefix}FD", "spatial": "sFD", "inception_score": "IS", "kernel": "KD"}
    return {metric: f"{label}-{extractor.name}" for metric, label in names.items()}


@dataclass(frozen=True)
class Asked:
    """How the metrics are to be computed, as in `evaluate`."""

    purpose: str
    k: int
    pr_precision: Any
    pr_reference: int
    kernel_subsets: int
    seed: int

    def check(self, batch_size: int) -> None:
        """Raise FAEError for what would otherwise fail only after all images were seen."""
        if self.pr_precision not in ("fp32", "adm"):
            raise UnknownName("precision of precision and recall", str(self.pr_precision), ["fp32", "adm"])
        if min(self.k, self.pr_reference, self.kernel_subsets, batch_size) < 1 or not 0 <= self.seed < 2**32:
            raise FAEError("k, pr_reference, kernel_subsets and the batch size are at least 1, the seed below 2^32")


def measure(
    features: FeatureSet, real: Reference, chosen: Sequence[str], extractor: FeatureExtractor, asked: Asked
) -> dict[str, float]:
    """Label -> value of each metric.

    Args:
        features: of the samples.
        real: what they are compared with.
        chosen: of METRICS, as `choose_metrics` gives them.
        extractor: of the features.
        asked: how the metrics are computed.

    Raises:
        FAEError: where the extractor lacks what a metric needs.
    """
    labels, measured = metric_labels(extractor, asked.purpose), {}
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
            assert real.features is not None  # `evaluate` asked for them
            known = real.features.subset(asked.pr_reference)
            pair = precision_recall(known, features.pool, asked.k, precision=asked.pr_precision)
            measured["precision"], measured["recall"] = pair
        elif metric == "density_coverage":
            assert real.features is not None
            known = real.features.subset(asked.pr_reference)
            pair = density_coverage(known, features.pool, DENSITY_NEIGHBOURS)
            measured["density"], measured["coverage"] = pair
        elif metric == "kernel":
            assert real.features is not None
            sides = real.features.pool.numpy(), features.pool.numpy()
            how = {"subsets": asked.kernel_subsets, "subset_size": KERNEL_SUBSET, "seed": asked.seed}
            measured[labels[metric]] = kernel_distance(*sides, **how)[0]
    return measured
