"""Classifier-free guidance of a Gaussian, as STARFlow defines it."""

from __future__ import annotations

import torch
from torch import Tensor


def guide(
    mean: Tensor, log_sigma: Tensor, mean_null: Tensor, log_sigma_null: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Mean and log sigma of the Gaussian from which guidance samples.

    With w = scale - 1 and s = min(sigma / sigma_null, 1)^2:

        sigma' = sigma / sqrt(1 + w - w s),   mean' = ((1 + w) mean - w s mean_null) / (1 + w - w s)

    This is the Gaussian proportional to p^(1+w) / p_null^w, with the ratio of variances limited to 1 so that
    it always exists.

    Args:
        mean: of p, (..., K).
        log_sigma: of p, (..., K).
        mean_null: of p_null, (..., K).
        log_sigma_null: of p_null, (..., K).
        scale: at least 0; 1 returns mean and log sigma unchanged.
    """
    # mean' is written as mean + w s (mean - mean_null) / (1 + w - w s): fewer operations, and exact at w = 0.
    w = scale - 1.0
    ratio = torch.exp(2 * (log_sigma - log_sigma_null).clamp_(max=0.0))
    precision = (1 + w) - w * ratio
    mean = torch.addcdiv(mean, ratio.mul_(mean - mean_null), precision, value=w)
    return mean, torch.sub(log_sigma, precision.log_(), alpha=0.5)
