"""Patch matching: which patches of one image are nearest to those of another, in features and in latents."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from fae_core.errors import FAEError
from fae_eval.figures.canvas import GAP, compose, from_tensor
from fae_eval.figures.kmeans import foreground
from fae_eval.figures.similarity import LatentScale, token_spaces

_SCALE = 240  # pixels of an image
_LEAST = 0.05  # of an image's patches must be in each cluster


@torch.no_grad()
def matching_picture(
    tokenizer: Any,
    first: Tensor,
    second: Tensor,
    *,
    most: int = 16,
    seed: int = 0,
    select: Literal["random", "mutual"] = "random",
    latent_scale: LatentScale = "normalised",
) -> tuple[Image.Image, dict[str, float]]:
    """Two images side by side, once per space, with lines between patches that match by cosine (appendix F, figure 10).

    Appendix F: animal patches are found by k-means, some of the first image's are drawn at random, and each is matched
    with the patch of the second image, any of them, that has the highest cosine. Two clusters over the features of both
    images, and which of them is the foreground, are ours. The foreground is found once for all spaces. Where that only
    separates the images from each other, each image is split by itself.

    Args:
        tokenizer: what makes features and latents.
        first: image (3, H, W) in [0, 1].
        second: image (3, H, W) in [0, 1].
        most: lines to draw.
        seed: of the two-means and of the patches that are selected.
        select: "random" draws foreground patches of the first image, the same in every space, and matches each with the
            nearest patch of the second, as the paper does. "mutual" is not the paper's: it takes foreground patches
            that are each other's nearest, the highest cosine first, which flatters.
        latent_scale: of the latents that are compared; see `token_spaces`. Normalised is a choice of ours.

    Returns:
        The picture and, for each space other than the features, the share of the features' matches that it finds too.

    Raises:
        FAEError: where the spaces have different grids, or an image is a single patch.
    """
    spaces = token_spaces(tokenizer, torch.stack([first, second]), latent_scale)
    tokens, grid = spaces["features"]
    mask = foreground(tokens, grid, seed=seed)
    share = mask.double().mean(1)
    if float(share.min()) < _LEAST or float(share.max()) > 1 - _LEAST:
        mask = torch.cat([foreground(image[None], grid, seed=seed) for image in tokens])
    cells, pairs_of = [], {}
    for name, (tokens, own_grid) in spaces.items():
        if own_grid != grid:
            raise FAEError(f"features lie on {grid} and {name} on {own_grid}; matching needs one grid")
        if select == "random":
            pairs = nearest_matches(tokens[0], tokens[1], random_patches(mask[0], most, seed))
        else:
            pairs = mutual_matches(tokens[0], tokens[1], mask[0], mask[1])
        pairs_of[name] = dict(pairs)
        cells.append([_draw(first, second, pairs[:most], grid)])
    shared = {
        name: sum(pairs_of["features"].get(a) == b for a, b in pairs.items()) / max(1, len(pairs_of["features"]))
        for name, pairs in pairs_of.items()
        if name != "features"
    }
    return compose(cells, row_titles=list(spaces)), shared


def random_patches(mask: Tensor, count: int, seed: int) -> list[int]:
    """At most `count` of the tokens in mask (N,), drawn without repetition."""
    inside = torch.nonzero(mask).flatten()
    order = torch.randperm(len(inside), generator=torch.Generator().manual_seed(seed), device="cpu")
    return sorted(int(i) for i in inside[order[:count]])


def nearest_matches(first: Tensor, second: Tensor, chosen: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs (i, j) of each chosen token of the first image and its nearest by cosine in the second.

    Args:
        first: tokens (N, D) of one image.
        second: tokens (M, D) of the other.
        chosen: tokens of the first.
    """
    cosine = F.normalize(first[list(chosen)], dim=-1) @ F.normalize(second, dim=-1).T
    return list(zip(chosen, cosine.argmax(1).tolist(), strict=True))


def mutual_matches(first: Tensor, second: Tensor, mask_first: Tensor, mask_second: Tensor) -> list[tuple[int, int]]:
    """Pairs (i, j) of tokens that are each other's nearest by cosine, the highest cosine first.

    Args:
        first: tokens (N, D) of one image.
        second: tokens (M, D) of the other.
        mask_first: (N,), which tokens take part.
        mask_second: (M,), which tokens take part.
    """
    cosine = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T
    cosine = cosine.masked_fill(~mask_first[:, None] | ~mask_second[None, :], -torch.inf)
    forward, backward = cosine.argmax(1), cosine.argmax(0)
    rows = torch.arange(len(first), device=first.device)
    mutual = mask_first & (backward[forward] == rows) & cosine[rows, forward].isfinite()
    found = rows[mutual]
    order = cosine[found, forward[found]].argsort(descending=True, stable=True)
    return [(int(i), int(forward[i])) for i in found[order]]


def _draw(first: Tensor, second: Tensor, pairs: list[tuple[int, int]], grid: tuple[int, int]) -> Image.Image:
    left, right = from_tensor(first, _SCALE), from_tensor(second, _SCALE)
    offset = left.width + 5 * GAP
    canvas = Image.new("RGBA", (offset + right.width, max(left.height, right.height)), (0, 0, 0, 0))
    canvas.paste(left, (0, 0))
    canvas.paste(right, (offset, 0))
    lines = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(lines)
    for number, (i, j) in enumerate(sorted(pairs)):
        hue = colorsys.hsv_to_rgb(number / max(1, len(pairs)), 0.75, 1.0)
        color = tuple(round(255 * part) for part in hue)
        start = _centre(i, grid, left.size)
        end = _centre(j, grid, right.size)
        end = (end[0] + offset, end[1])
        draw.line([start, end], fill=(*color, 190), width=2)
        for x, y in (start, end):
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=(*color, 255), outline=(20, 20, 24, 255))
    return Image.alpha_composite(canvas, lines)


def _centre(patch: int, grid: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    row, column = divmod(patch, grid[1])
    return (column + 0.5) * size[0] / grid[1], (row + 0.5) * size[1] / grid[0]
