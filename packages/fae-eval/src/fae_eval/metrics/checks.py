"""What every metric asks of its input: shapes that fit, and numbers that are numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from fae_core.errors import FAEError


def finite_rows(what: str, features: Tensor, least: int = 1) -> Tensor:
    """`features` (N, d). Raises FAEError for another shape, fewer than `least` rows, and numbers that are not finite: a
    comparison with one of them is false, and would count as a result."""
    if features.ndim != 2 or not features.shape[1]:
        raise FAEError(f"{what} have shape {tuple(features.shape)}, not (N, d)")
    if len(features) < least:
        raise FAEError(f"{len(features)} {what} are too few: at least {least} are needed")
    if not bool(torch.isfinite(features).all()):
        raise FAEError(f"{what} hold numbers that are not finite")
    return features


def same_width(first: Tensor, second: Tensor) -> None:
    """Raises FAEError where rows of (N, d) and (M, e) cannot be compared."""
    if first.shape[1] != second.shape[1]:
        raise FAEError(f"features of {first.shape[1]} and of {second.shape[1]} dimensions cannot be compared")
