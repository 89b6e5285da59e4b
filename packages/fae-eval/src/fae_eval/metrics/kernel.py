"""Kernel distance (KID when the features are Inception's): an unbiased alternative to the Frechet distance for few samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fae_core.errors import FAEError


def kernel_distance(
    ref: ArrayLike, gen: ArrayLike, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """(mean, standard deviation over subsets) of the unbiased squared MMD with the kernel (x.y / d + 1)^3.

    ref, gen: features (N, d) and (M, d). Subsets are drawn without replacement from numpy's RandomState(seed), generated first,
    as torch-fidelity does, so both give the same number. May be slightly negative: it is unbiased.
    """
    ref, gen = np.asarray(ref, np.float64), np.asarray(gen, np.float64)
    if ref.ndim != 2 or gen.ndim != 2 or ref.shape[1] != gen.shape[1]:
        raise FAEError(f"features of shapes {ref.shape} and {gen.shape} cannot be compared")
    subset_size = min(subset_size, len(ref), len(gen))
    if subset_size < 2:
        raise FAEError("the kernel distance needs at least two samples on both sides")
    draw = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        a = gen[draw.choice(len(gen), subset_size, replace=False)]
        b = ref[draw.choice(len(ref), subset_size, replace=False)]
        values.append(_squared_mmd(a, b))
    return float(np.mean(values)), float(np.std(values))


def _squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    n, d = a.shape
    within = [((x @ x.T / d + 1) ** 3) for x in (a, b)]
    between = (a @ b.T / d + 1) ** 3
    unbiased = sum((table.sum() - np.trace(table)) / (n * (n - 1)) for table in within)
    return float(unbiased - 2 * between.mean())
