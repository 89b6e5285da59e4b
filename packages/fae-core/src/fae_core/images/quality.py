"""How similar two images are, by the one convention that every command and log uses."""

from __future__ import annotations

from torch import Tensor

from fae_core.images.check import require_image_pair

LEAST_ERROR = 1e-10


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image; the peak is 1.

    A mean squared error below 1e-10 counts as 1e-10: identical images have 100 dB, the largest value, so that one blank
    image leaves a mean finite. (One value of 256x256 that differs by one 8-bit level gives 8e-11.)

    Args:
        a: (B, C, H, W) in [0, 1].
        b: Of the same shape.

    Returns:
        (B,) float64, in dB.

    Raises:
        FAEError: the shapes differ, or are not (B, C, H, W).
    """
    require_image_pair(a, b)
    error = (a.double() - b.double()).square().flatten(1).mean(1)
    return -10 * error.clamp_min(LEAST_ERROR).log10()
