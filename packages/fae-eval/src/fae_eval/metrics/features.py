"""How well features are reconstructed: cosine, mean squared error and unexplained variance of tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core.errors import FAEError


def feature_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Mean cosine over tokens of each image, (B,), for a and b (B, N, D). A token of zeros counts as 0.

    Args:
        a: Features (B, N, D).
        b: Of the same shape.
    """
    _require_alike(a, b)
    return F.cosine_similarity(a.float(), b.float(), dim=-1).flatten(1).mean(1)


def feature_mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error of each image, (B,), for a and b (B, ...) of one shape.

    Args:
        a: Features (B, ...).
        b: Of the same shape.
    """
    _require_alike(a, b)
    return (a.float() - b.float()).square().flatten(1).mean(1)


def unexplained_variance(target: Tensor, prediction: Tensor) -> float:
    """Squared error over the target's variance about its per-channel mean: 0 is perfect, 1 is no better than the mean.

    Args:
        target: (..., D).
        prediction: of the same shape.

    Raises:
        FAEError: where the target does not vary, or shapes differ.
    """
    _require_alike(target, prediction)
    target, prediction = target.double().flatten(0, -2), prediction.double().flatten(0, -2)
    spread = (target - target.mean(0)).square().sum()
    if spread == 0:
        raise FAEError("features that do not vary have no variance to explain")
    return ((target - prediction).square().sum() / spread).item()


def _require_alike(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or not a.numel():
        raise FAEError(f"features of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
    if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise FAEError("features hold numbers that are not finite")
