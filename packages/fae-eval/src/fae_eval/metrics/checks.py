"""Checks of what a metric is given: shapes that fit together, and finite numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from fae_core.errors import FAEError


def finite_rows(what: str, features: Tensor, least: int = 1) -> Tensor:
    """The features, once they are checked. Every comparison with a NaN is false, and would count as a result.

    Args:
        what: what an error calls the rows, in the plural.
        features: (N, d).
        least: fewest rows that are allowed.

    Raises:
        FAEError: for another shape, fewer rows, or numbers that are not finite.
    """
    if features.ndim != 2 or not features.shape[1]:
        raise FAEError(f"{what} have shape {tuple(features.shape)}, not (N, d)")
    if len(features) < least:
        raise FAEError(f"{len(features)} {what} are too few: at least {least} are needed")
    if not bool(torch.isfinite(features).all()):
        raise FAEError(f"{what} hold numbers that are not finite")
    return features


def same_width(first: Tensor, second: Tensor) -> None:
    """Raise FAEError unless the rows of (N, d) and (M, e) have the same length."""
    if first.shape[1] != second.shape[1]:
        raise FAEError(f"features of {first.shape[1]} and of {second.shape[1]} dimensions cannot be compared")
