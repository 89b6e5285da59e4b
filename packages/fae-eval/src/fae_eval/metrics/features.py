"""How well features are kept: cosine, mean squared error and unexplained variance between token tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Mean cosine over tokens for each image, (B,). a, b: (B, N, D)."""
    return F.cosine_similarity(a.float(), b.float(), dim=-1).flatten(1).mean(1)


def feature_mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error for each image, (B,). a, b: (B, ...) of one shape."""
    return (a.float() - b.float()).square().flatten(1).mean(1)


def unexplained_variance(target: Tensor, prediction: Tensor) -> float:
    """Squared error over the target's variance about its per-channel mean; 0 is perfect, 1 is as good as the mean. (..., D)."""
    target, prediction = target.double().flatten(0, -2), prediction.double().flatten(0, -2)
    spread = (target - target.mean(0)).square().sum()
    return ((target - prediction).square().sum() / spread.clamp_min(torch.finfo(torch.float64).tiny)).item()
