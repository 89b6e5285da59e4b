"""Pictures that a stage writes while it runs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fae_core import folders
from fae_core.images import psnr, save_grid
from fae_core.images.spread import spread_indices

_PREVIEW_IMAGES = 8


def preview_rows(count: int) -> list[int]:
    """Indices of a few of `count` images, evenly spread."""
    return spread_indices(count, _PREVIEW_IMAGES)


def save_preview(target: Tensor, decoded: Tensor, folder: Path, step: int) -> dict[str, float]:
    """Write targets above the decoder's images.

    Args:
        target: (B, 3, H, W) in [0, 1].
        decoded: (B, 3, H, W); clamped.
        folder: Where the picture goes.
        step: Names the file.

    Returns:
        The mean PSNR of these few images in dB, to log.
    """
    decoded = decoded.float().clamp(0, 1)
    grid = torch.cat([target, decoded]).cpu()
    save_grid(grid, folder / folders.preview_image(step), len(target), row_labels=["image", "decoded"])
    return {"preview_psnr": float(psnr(target, decoded).mean())}
