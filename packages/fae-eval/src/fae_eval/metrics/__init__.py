"""Metrics: numbers from features, statistics or images.

No file of images is read here and no extractor is run: see `evaluate` for whole protocols.
"""

from fae_eval.metrics.density_coverage import density_coverage
from fae_eval.metrics.features import feature_cosine, feature_mse, unexplained_variance
from fae_eval.metrics.frechet import GaussianFactor, frechet_distance
from fae_eval.metrics.image import LPIPS, psnr, ssim
from fae_eval.metrics.inception_score import inception_score
from fae_eval.metrics.kernel import kernel_distance
from fae_eval.metrics.moments import Moments
from fae_eval.metrics.neighbours import manifold_radii
from fae_eval.metrics.precision_recall import precision_recall
from fae_eval.metrics.retrieval import clip_score, retrieval_recall

__all__ = [
    "LPIPS",
    "GaussianFactor",
    "Moments",
    "clip_score",
    "density_coverage",
    "feature_cosine",
    "feature_mse",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "manifold_radii",
    "precision_recall",
    "psnr",
    "retrieval_recall",
    "ssim",
    "unexplained_variance",
]
