"""Kernel distance (KID with Inception's features): an unbiased alternative to the Frechet distance for few samples."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from fae_core.errors import FAEError
from fae_eval.metrics.checks import finite_rows, same_width


def kernel_distance(
    ref: ArrayLike, gen: ArrayLike, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """Unbiased squared MMD with the kernel (x.y / d + 1)^3, averaged over subsets. It may be slightly negative.

    Subsets are drawn without replacement from numpy's RandomState(seed), those of `gen` first, as torch-fidelity does:
    both give the same number.

    Args:
        ref: features of the reference, (N, d).
        gen: features of the generated images, (M, d).
        subsets: how many subsets of each are compared.
        subset_size: rows of a subset; fewer where a set has fewer.
        seed: of the subsets, from 0 to 2^32 - 1.

    Returns:
        Mean and standard deviation over the subsets.

    Raises:
        FAEError: where features do not fit together, are too few, or are too large for third powers.
    """
    sides = [
        finite_rows("features of the kernel distance", torch.as_tensor(np.asarray(side, np.float64), device="cpu"), 2)
        for side in (ref, gen)
    ]
    same_width(*sides)
    ref, gen = (side.numpy() for side in sides)
    subset_size = min(subset_size, len(ref), len(gen))
    if subset_size < 2 or subsets < 1:
        raise FAEError(f"the kernel distance needs a subset of two samples, not {subsets} of {subset_size}")
    if not 0 <= seed < 2**32:
        raise FAEError(f"the kernel distance's seed lies between 0 and 2^32 - 1, not {seed}")
    draw = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        a = gen[draw.choice(len(gen), subset_size, replace=False)]
        b = ref[draw.choice(len(ref), subset_size, replace=False)]
        values.append(_squared_mmd(a, b))
    mean, deviation = float(np.mean(values)), float(np.std(values))
    if not np.isfinite(mean):
        raise FAEError("features are too large for the kernel distance: its third powers overflow")
    return mean, deviation


def _squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    n, d = a.shape
    within = [((x @ x.T / d + 1) ** 3) for x in (a, b)]
    between = (a @ b.T / d + 1) ** 3
    unbiased = sum((table.sum() - np.trace(table)) / (n * (n - 1)) for table in within)
    return float(unbiased - 2 * between.mean())
