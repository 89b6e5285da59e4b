"""The three strongest directions of patch tokens as red, green and blue, in features and in latents side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fae_eval.figures.canvas import compose, from_grid, from_tensor, normalise
from fae_eval.figures.similarity import token_spaces
from fae_eval.metrics.eigen import symmetric_eigen


@torch.no_grad()
def pca_picture(
    tokenizer: Any, images: Tensor, *, row_titles: Sequence[str] | None = None
) -> tuple[Image.Image, dict[str, float]]:
    """One row per image: the image, then each space's components, fitted once over all images.

    Components have no common order or sign across spaces: those of latents and of rebuilt features are rotated to agree
    best with the features' (orthogonal Procrustes), so that equal colours mean equal things.

    Args:
        tokenizer: what makes features and latents.
        images: (B, 3, H, W) in [0, 1].
        row_titles: left of the rows.

    Returns:
        The picture, and the share of variance that three components hold in each space.
    """
    colors, shares = component_colors(tokenizer, images)
    rows = [
        [from_tensor(image), *(from_grid(pixels[i]) for pixels in colors.values())] for i, image in enumerate(images)
    ]
    return compose(rows, column_titles=["image", *colors], row_titles=row_titles), shares


@torch.no_grad()
def component_colors(tokenizer: Any, images: Tensor) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Each space's components as colours, fitted and rotated as `pca_picture` says.

    Args:
        tokenizer: what makes features and latents.
        images: (B, 3, H, W) in [0, 1].

    Returns:
        uint8 (B, h, w, 3) and the share of variance by the name of the space.
    """
    spaces, shares, colors, first = token_spaces(tokenizer, images), {}, {}, None
    for name, (tokens, grid) in spaces.items():
        components, shares[name] = principal_components(tokens.flatten(0, 1), 3)
        if first is None:
            first = components
        elif components.shape == first.shape:
            components = align(components, first)
        colors[name] = np.rint(normalise(components).view(len(images), *grid, 3).numpy() * 255).astype(np.uint8)
    return colors, shares


def align(components: Tensor, target: Tensor) -> Tensor:
    """Centred components (N, C), scaled to unit variance, rotated or mirrored to agree best with `target` (N, C)."""
    unit, wanted = (x / x.std(0).clamp_min(1e-12) for x in (components, target))
    left, _, right = torch.linalg.svd(unit.T @ wanted)
    return unit @ (left @ right)


def principal_components(points: Tensor, count: int) -> tuple[Tensor, float]:
    """Projections of points on their strongest directions, and the share of variance that these hold.

    Signs are fixed so that each direction's largest entry is positive. Directions beyond the data's rank are zero.

    Args:
        points: (N, D).
        count: directions.

    Returns:
        Projections (N, count), and the share in [0, 1].
    """
    centred = points.double() - points.double().mean(0)
    values, vectors = symmetric_eigen(centred.T @ centred)
    kept = vectors[:, -count:].flip(1)
    kept = kept * torch.sign(kept.gather(0, kept.abs().argmax(0, keepdim=True)))
    projected = centred @ kept
    if projected.shape[1] < count:
        projected = torch.nn.functional.pad(projected, (0, count - projected.shape[1]))
    return projected, float(values[-count:].clamp(min=0).sum() / values.clamp(min=0).sum().clamp_min(1e-30))
