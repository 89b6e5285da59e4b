"""The feature terms of stage Ia's objective (equation 4.1); its KL term is fae_encoder's `Posterior.kl`.

All terms are means over every element, so that beta does not change its meaning with the grid, the channels or
the width of the backbone. In sums over one image the paper's form ||x^ - x||^2 + beta' KL has beta' = beta * (N
D) / (N C) = beta * D / C.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_loss(reconstructed: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error of features.

    Args:
        reconstructed: (B, N, D).
        target: (B, N, D).
        weights: (D,), of mean 1 (see `channel_weights`); None for equal ones.
    """
    error = (reconstructed.float() - target.float()).square()
    return (error if weights is None else error * weights).mean()


def cosine_loss(reconstructed: Tensor, target: Tensor) -> Tensor:
    """1 - cosine similarity per token (B, N, D), mean over tokens; the lengths do not matter.

    Args:
        reconstructed: (B, N, D).
        target: (B, N, D).
    """
    return 1 - F.cosine_similarity(reconstructed.float(), target.float(), dim=-1).mean()


def channel_weights(stage_weights: tuple[float, ...], stage_dims: tuple[int, ...]) -> Tensor:
    """Weights of concatenated backbone stages for `feature_loss`, scaled to mean 1 so that the loss keeps its scale.

    Args:
        stage_weights: One for each stage.
        stage_dims: Channels of each stage.

    Returns:
        (D,), on the default device.
    """
    weights = torch.cat(
        [torch.full((dim,), float(weight)) for weight, dim in zip(stage_weights, stage_dims, strict=True)]
    )
    return weights / weights.mean()


def unexplained_variance(reconstructed: Tensor, target: Tensor) -> Tensor:
    """Squared error over the variance of the target around its per-channel mean: 0 is perfect, 1 is the mean."""
    target = target.float()
    centred = target - target.mean(dim=(0, 1))
    return (reconstructed.float() - target).square().sum() / centred.square().sum().clamp_min(1e-12)
