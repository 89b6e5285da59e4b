"""What a stage shows of itself while it runs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fae_core import folders
from fae_core.images import psnr, save_grid

_PREVIEW_IMAGES = 8


def preview_rows(count: int) -> list[int]:
    """Indices of a few of `count` images, evenly spread."""
    return [i * count // _PREVIEW_IMAGES for i in range(min(count, _PREVIEW_IMAGES))]


def save_preview(target: Tensor, painted: Tensor, folder: Path, step: int) -> dict[str, float]:
    """Write targets above what is painted, (B, 3, H, W) each, and return the PSNR of these few images."""
    painted = painted.float().clamp(0, 1)
    grid = torch.cat([target, painted]).cpu()
    save_grid(grid, folder / folders.preview_image(step), len(target), row_labels=["image", "painted"])
    return {"preview_psnr": float(psnr(target, painted).mean())}
