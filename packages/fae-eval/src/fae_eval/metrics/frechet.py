"""The Frechet distance between two Gaussians, the last step of FID, sFID, rFID and FD-anything.

    d^2 = |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

The last trace needs no square root of a non-symmetric product. With S1 = L L' by Cholesky it is the sum of the roots of
the eigenvalues of the symmetric L' S2 L, of which only a triangle is computed. That is exact where both covariances
have full rank, which the smallest eigenvalue shows, or a second Cholesky. Otherwise the deficient side is factored by
pivoted Cholesky where its rank is small, else by eigh, its noise is dropped by the usual rank threshold (lambda_max * d
* 2^-52), and the trace is the nuclear norm of A'B for S1 = A A' and S2 = B B'. All of it in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fae_core.display import fields_html, fields_repr
from fae_core.errors import FAEError
from fae_eval.metrics.eigen import symmetric_eigen, symmetric_eigenvalues

Array = NDArray[np.float64]
_ROUNDING = 1e-4  # a negative eigenvalue over the largest; statistics in single precision reach 1e-6


@dataclass(frozen=True)
class GaussianFactor:
    """A Gaussian whose covariance is factored once, when it is first needed: a reference serves many comparisons.

    Args:
        mu: mean, (d,).
        sigma: covariance, (d, d).
    """

    mu: Array
    sigma: Array

    __repr__, _repr_html_ = fields_repr, fields_html

    @cached_property
    def factor(self) -> Array:
        """(d, rank), sigma = factor @ factor.T; lower triangular where the rank is full."""
        return _factor(self.sigma, (1e-7 * min(float(np.abs(self.mu).max()), 1e100)) ** 2)

    @property
    def full_rank(self) -> bool:
        """Whether the covariance is invertible."""
        return self.factor.shape[1] == self.sigma.shape[0]

    @classmethod
    def of(cls, mu: ArrayLike | None, sigma: ArrayLike | None) -> GaussianFactor:
        """The Gaussian of a mean (d,) and a covariance (d, d), once they are checked.

        Args:
            mu: The mean, (d,).
            sigma: The covariance, (d, d), symmetric.

        Raises:
            FAEError: where shapes do not fit, numbers are not finite, or the covariance is not symmetric.
        """
        try:
            mu, sigma = np.atleast_1d(np.asarray(mu, np.float64)), np.atleast_2d(np.asarray(sigma, np.float64))
        except (TypeError, ValueError):
            raise FAEError("mean and covariance must be arrays of numbers") from None
        sigma = sigma if sigma.flags.writeable else sigma.copy()  # torch cannot share a read-only mapped file
        if mu.ndim != 1 or not mu.size or sigma.shape != (mu.size, mu.size):
            raise FAEError(f"mean {mu.shape} and covariance {sigma.shape} do not fit together")
        if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
            raise FAEError("the statistics hold numbers that are not finite")
        # One random vector finds any asymmetry, without reading the matrix across its rows.
        probe = np.random.default_rng(0).standard_normal(mu.size)
        scale = np.abs(np.diagonal(sigma)).max() * np.linalg.norm(probe)
        if np.abs(sigma @ probe - probe @ sigma).max() > 1e-5 * scale:
            raise FAEError("the covariance is not symmetric")
        return cls(mu, sigma)


def frechet_distance(
    mu1: ArrayLike | GaussianFactor,
    sigma1: ArrayLike | None = None,
    mu2: ArrayLike | GaussianFactor | None = None,
    sigma2: ArrayLike | None = None,
) -> float:
    """Squared Frechet (2-Wasserstein) distance of two Gaussians, what papers call FID. Symmetric; never below zero.

    A `GaussianFactor` may stand for a mean and its covariance, as in `frechet_distance(first, mu2=second)`.

    Args:
        mu1: mean of the first Gaussian, (d,).
        sigma1: its covariance, (d, d).
        mu2: mean of the second, (d,).
        sigma2: its covariance, (d, d).

    Raises:
        FAEError: where the dimensions differ, or the distance overflows.
    """
    first = mu1 if isinstance(mu1, GaussianFactor) else GaussianFactor.of(mu1, sigma1)
    second = mu2 if isinstance(mu2, GaussianFactor) else GaussianFactor.of(mu2, sigma2)
    if first.mu.shape != second.mu.shape:
        raise FAEError(f"features of {first.mu.size} and of {second.mu.size} dimensions cannot be compared")
    difference = first.mu - second.mu
    distance = difference @ difference + np.trace(first.sigma) + np.trace(second.sigma)
    distance = float(distance - 2 * _trace_of_root(first, second))
    if not np.isfinite(distance):
        raise FAEError("the statistics are too large: their Frechet distance overflows")
    return max(0.0, distance)


def _factor(sigma: Array, noise: float) -> Array:
    """R with sigma = R R': by Cholesky where the smallest pivot shows full rank, else without rounding noise.

    noise: what rounding may leave of a variance that is 0.
    """
    floor = sigma.shape[0] * np.finfo(np.float64).eps
    lower, failed = (tensor.numpy() for tensor in torch.linalg.cholesky_ex(torch.from_numpy(sigma)))
    if not failed and (np.diagonal(lower) ** 2).min() > floor * np.diagonal(sigma).max():
        return lower
    if np.abs(sigma).max() <= noise:  # rounding of features that are all equal
        return np.zeros((len(sigma), 0))
    if (few := _factor_of_few(sigma, floor)) is not None:
        return few
    values, vectors = (found.numpy() for found in symmetric_eigen(torch.from_numpy(sigma)))
    _require_no_negative(values)
    keep = values > floor * max(values[-1], 0.0)
    return vectors[:, keep] * np.sqrt(values[keep])


def _factor_of_few(sigma: Array, floor: float) -> Array | None:
    """The factor of a covariance of far fewer images than dimensions, in d * rank^2 steps instead of d^3.

    It is Cholesky with the largest variance that is left as pivot. None where the rank exceeds d / 8, or where the
    factor does not reproduce all of sigma to `floor` of its largest variance.
    """
    left = np.diagonal(sigma).copy()
    allowed = floor * left.max()
    rows = np.zeros((len(sigma) // 8, len(sigma)))
    for rank, row in enumerate(rows):
        pivot = int(left.argmax())
        if left[pivot] <= allowed:
            found = rows[:rank]
            return found.T if np.abs(found.T @ found - sigma).max() <= allowed else None
        row[:] = (sigma[pivot] - rows[:rank, pivot] @ rows[:rank]) / np.sqrt(left[pivot])
        left -= row**2
    return None


def _trace_of_root(first: GaussianFactor, second: GaussianFactor) -> float:
    """tr (S1 S2)^(1/2)."""
    if first.full_rank:
        between = _between(first.factor, second.sigma)
        values = symmetric_eigenvalues(torch.from_numpy(between)).numpy()
        _require_no_negative(values)
        if values[0] > len(values) * np.finfo(np.float64).eps * values[-1] or second.full_rank:
            return float(np.sqrt(values.clip(min=0)).sum())
    if first.factor.shape[1] == 0 or second.factor.shape[1] == 0:
        return 0.0
    return float(np.linalg.svd(first.factor.T @ second.factor, compute_uv=False).sum())


def _require_no_negative(values: Array) -> None:
    """Raise FAEError where eigenvalues, ascending, are below zero by more than rounding."""
    if values[0] < -_ROUNDING * max(values[-1], 0.0):
        raise FAEError("the covariance has negative variances: these are not statistics of features")


def _between(lower: Array, sigma: Array, blocks: int = 8) -> Array:
    """L' sigma L for a lower triangular L, by blocks that skip its zeros. Only the lower triangle is valid."""
    size = len(lower)
    edges = [round(i * size / blocks) for i in range(blocks + 1)]
    product = np.zeros_like(sigma)
    for left, right in pairwise(edges):
        column = sigma[:, left:] @ lower[left:, left:right]
        for top, bottom in pairwise(edges):
            if top >= left:
                np.matmul(lower[top:, top:bottom].T, column[top:], out=product[top:bottom, left:right])
    return product
