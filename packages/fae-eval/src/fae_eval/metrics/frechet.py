"""The Frechet distance between two Gaussians, the last step of FID, sFID, rFID and FD-anything.

    d^2 = |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

For any factors S1 = A A' and S2 = B B' the last trace is the nuclear norm of A'B, which needs no matrix square root of a
non-symmetric product. Where both covariances have full rank, A comes from Cholesky and the singular values from the symmetric
eigenvalues of A' S2 A; else the deficient side is factored by eigh, its noise dropped by the usual rank threshold
(lambda_max * d * 2^-52), and the singular values of the small A'B are taken directly. All in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fae_core.errors import FAEError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GaussianFactor:
    """A Gaussian with its covariance factored once, so that a reference serves many comparisons.

    mu: (d,); sigma: (d, d); factor: (d, rank) with sigma = factor @ factor.T.
    """

    mu: Array
    sigma: Array
    factor: Array

    @property
    def full_rank(self) -> bool:
        return self.factor.shape[1] == self.sigma.shape[0]

    @classmethod
    def of(cls, mu: ArrayLike, sigma: ArrayLike) -> GaussianFactor:
        """Validates and factors. Raises FAEError where shapes differ, numbers are not finite or sigma is not symmetric."""
        mu, sigma = np.atleast_1d(np.asarray(mu, np.float64)), np.atleast_2d(np.asarray(sigma, np.float64))
        if mu.ndim != 1 or sigma.shape != (mu.size, mu.size):
            raise FAEError(f"mean {mu.shape} and covariance {sigma.shape} do not fit together")
        if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
            raise FAEError("the statistics hold numbers that are not finite")
        if not np.allclose(sigma, sigma.T, rtol=1e-5, atol=1e-8 * max(1.0, float(np.abs(sigma).max()))):
            raise FAEError("the covariance is not symmetric")
        sigma = (sigma + sigma.T) / 2
        return cls(mu, sigma, _factor(sigma))


def frechet_distance(
    mu1: ArrayLike | GaussianFactor,
    sigma1: ArrayLike | None = None,
    mu2: ArrayLike | GaussianFactor | None = None,
    sigma2: ArrayLike | None = None,
) -> float:
    """Squared Frechet (2-Wasserstein) distance, what papers call FID. Symmetric; never below zero.

    Call it with (mu1, sigma1, mu2, sigma2), (d,) and (d, d) each; a `GaussianFactor` may stand for a pair, as in
    `frechet_distance(first, mu2=second)`. Raises FAEError where the dimensions differ.
    """
    first = mu1 if isinstance(mu1, GaussianFactor) else GaussianFactor.of(mu1, sigma1)
    second = mu2 if isinstance(mu2, GaussianFactor) else GaussianFactor.of(mu2, sigma2)
    if first.mu.shape != second.mu.shape:
        raise FAEError(f"features of {first.mu.size} and of {second.mu.size} dimensions cannot be compared")
    difference = first.mu - second.mu
    distance = difference @ difference + np.trace(first.sigma) + np.trace(second.sigma)
    return max(0.0, float(distance - 2 * _nuclear_norm(first, second)))


def _factor(sigma: Array) -> Array:
    """sigma = R R'. Cholesky where the smallest pivot says that the rank is full, else eigh without the noise."""
    floor = sigma.shape[0] * np.finfo(np.float64).eps
    try:
        lower = np.linalg.cholesky(sigma)
        pivots = np.diagonal(lower) ** 2
        if pivots.min() > floor * np.diagonal(sigma).max():
            return lower
    except np.linalg.LinAlgError:
        pass  # not positive definite: the eigenvalues decide
    values, vectors = np.linalg.eigh(sigma)
    keep = values > floor * max(values[-1], 0.0)
    return vectors[:, keep] * np.sqrt(values[keep])


def _nuclear_norm(first: GaussianFactor, second: GaussianFactor) -> float:
    if first.factor.shape[1] == 0 or second.factor.shape[1] == 0:
        return 0.0
    if first.full_rank and second.full_rank:
        product = first.factor.T @ second.sigma @ first.factor
        return float(np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(min=0)).sum())
    return float(np.linalg.svd(first.factor.T @ second.factor, compute_uv=False).sum())
