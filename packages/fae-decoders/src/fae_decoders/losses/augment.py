"""DiffAugment (Zhao et al., 2020): differentiable colour, translation and cutout before the discriminator.

Real and decoded images are both augmented, so a discriminator with few images cannot memorise them, and the
decoder does not learn to reproduce the augmentation. Every draw belongs to a sample (see SlotRandom).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fae_core.random import SlotRandom


def diff_augment(images: Tensor, random: SlotRandom, stream: str) -> Tensor:
    """Augmented copies of images.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        random: One slot per image.
        stream: Separates the draws of several uses in one step.
    """
    draws = random.uniform((7,), f"{stream}/augment", images.device).to(images.dtype)
    images = _colour(images, draws[:, :3])
    images = _translate(images, draws[:, 3:5])
    return _cut_out(images, draws[:, 5:7])


def _colour(images: Tensor, u: Tensor) -> Tensor:
    """Brightness, saturation and contrast by u (B, 3) in [0, 1)."""
    brightness, saturation, contrast = (u[:, i].view(-1, 1, 1, 1) for i in range(3))
    images = images + (brightness - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * (2 * saturation)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    return middle + (images - middle) * (contrast + 0.5)


def _translate(images: Tensor, u: Tensor, ratio: float = 0.125) -> Tensor:
    """Shift by up to `ratio` of each side; what moves in is 0, mid-grey."""
    height, width = images.shape[-2:]
    reach_y, reach_x = round(height * ratio), round(width * ratio)
    dy = (u[:, 0] * (2 * reach_y + 1)).long() - reach_y
    dx = (u[:, 1] * (2 * reach_x + 1)).long() - reach_x
    rows = torch.arange(height, device=images.device) - dy[:, None]
    columns = torch.arange(width, device=images.device) - dx[:, None]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    shifted = images.permute(0, 2, 3, 1)[
        batch, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    ]
    return shifted.permute(0, 3, 1, 2) * inside[:, None]


def _cut_out(images: Tensor, u: Tensor, ratio: float = 0.5) -> Tensor:
    """Blank a rectangle of `ratio` of each side, centred anywhere in the image."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) - (u[:, 0:1] * height).floor()
    columns = torch.arange(width, device=images.device) - (u[:, 1:2] * width).floor()
    hidden = (rows.abs() < ratio * height / 2)[:, :, None] & (columns.abs() < ratio * width / 2)[:, None, :]
    return images * ~hidden[:, None]
