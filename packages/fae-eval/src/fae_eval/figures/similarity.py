"""Patch similarity: how similar all patches are to one, in features and in latents (as in the paper's figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fae_core.errors import FAEError
from fae_eval.figures.canvas import colormap, compose, from_grid, from_tensor, mark_patch
from fae_eval.figures.kmeans import foreground
from fae_eval.tokenizers import features_of_latents, grid_of, image_features, latent_tokens, rebuilds_features

LatentScale = Literal["normalised", "raw"]


@torch.no_grad()
def similarity_picture(
    tokenizer: Any,
    images: Tensor,
    queries: Sequence[tuple[float, float]] | None = None,
    *,
    row_titles: Sequence[str] | None = None,
    latent_scale: LatentScale = "normalised",
) -> tuple[Image.Image, dict[str, float]]:
    """One row per image: the image with its query patch, then the cosine of every patch with it, once per space.

    The spaces are features, latents, and the features rebuilt from latents where the tokenizer does that. Colours run
    from cosine 0 or less (dark) to each map's own 98th percentile (bright).

    Args:
        tokenizer: what makes features and latents.
        images: (B, 3, H, W) in [0, 1].
        queries: (y, x) in [0, 1] for each image; None takes the most typical foreground patch.
        row_titles: left of the rows.
        latent_scale: of the latents that are compared; see `token_spaces`.

    Returns:
        The picture, and the mean correlation of the map of features with that of each other space.

    Raises:
        FAEError: where queries do not fit, or are to be found in images of a single patch.
    """
    if queries is not None and len(queries) != len(images):
        raise FAEError(f"{len(images)} images need as many queries, got {len(queries)}")
    spaces = token_spaces(tokenizer, images, latent_scale)
    first_tokens, first_grid = spaces["features"]
    queries = queries or typical_patches(first_tokens, first_grid)
    rows, correlations = [], {name: [] for name in spaces if name != "features"}
    for i, (y, x) in enumerate(queries):
        row, base = [mark_patch(from_tensor(images[i]), *_patch(y, x, first_grid), first_grid)], None
        for name, (tokens, grid) in spaces.items():
            patch = _patch(y, x, grid)
            similarity = cosine_map(tokens[i], patch[0] * grid[1] + patch[1]).view(grid)
            bright = similarity.quantile(0.98).clamp_min(1e-6)
            row.append(mark_patch(from_grid(colormap(similarity / bright)), *patch, grid))
            resized = (
                F.interpolate(similarity[None, None], first_grid, mode="bilinear")[0, 0]
                if grid != first_grid
                else similarity
            )
            if base is None:
                base = resized
            else:
                correlations[name].append(_correlation(base, resized))
        rows.append(row)
    titles = ["image and query patch", *spaces]
    means = {name: sum(found) / len(found) for name, found in correlations.items()}
    return compose(rows, column_titles=titles, row_titles=row_titles), means


def token_spaces(
    tokenizer: Any, images: Tensor, latent_scale: LatentScale = "normalised"
) -> dict[str, tuple[Tensor, tuple[int, int]]]:
    """Tokens (B, N, D) and their grid, for "features", "latents" and, where there are any, "rebuilt features".

    Args:
        tokenizer: what makes them.
        images: (B, 3, H, W) in [0, 1].
        latent_scale: "normalised" per channel, as generators see latents, so that every channel weighs alike in a
            cosine; or "raw", as the encoder gives them. The paper does not say which it compares.
    """
    z = tokenizer.encode(images)
    grid = (z.shape[2], z.shape[3])
    features = image_features(tokenizer, images)
    compared = tokenizer.spec.denormalize(z) if latent_scale == "raw" else z
    spaces = {"features": (features, grid_of(features, *grid)), "latents": (latent_tokens(compared), grid)}
    if rebuilds_features(tokenizer):
        rebuilt = features_of_latents(tokenizer, z)
        spaces["rebuilt features"] = (rebuilt, grid_of(rebuilt, *grid))
    return {name: (tokens.float().cpu(), grid) for name, (tokens, grid) in spaces.items()}


def cosine_map(tokens: Tensor, query: int) -> Tensor:
    """Cosine of every token (N, D) with token `query`, (N,)."""
    return F.cosine_similarity(tokens, tokens[query : query + 1], dim=-1)


def typical_patches(tokens: Tensor, grid: tuple[int, int]) -> list[tuple[float, float]]:
    """For each image the patch that is most like its foreground and least like its background.

    Args:
        tokens: (B, N, D).
        grid: rows and columns of the N tokens.

    Returns:
        (y, x) of the patch's centre, in [0, 1], for each image.

    Raises:
        FAEError: where an image is a single patch.
    """
    found = []
    for image in tokens:
        inside = foreground(image[None], grid)[0]
        unit = F.normalize(image, dim=-1)
        score = unit @ unit[inside].mean(0) if bool(inside.any()) else unit @ unit.mean(0)
        if bool((~inside).any()) and bool(inside.any()):
            score = (score - unit @ unit[~inside].mean(0)).masked_fill(~inside, -torch.inf)
        best = int(score.argmax())
        found.append(((best // grid[1] + 0.5) / grid[0], (best % grid[1] + 0.5) / grid[1]))
    return found


def _patch(y: float, x: float, grid: tuple[int, int]) -> tuple[int, int]:
    if not (0 <= y <= 1 and 0 <= x <= 1):
        raise FAEError(f"a query is (y, x) in [0, 1], not ({y}, {x})")
    return min(int(y * grid[0]), grid[0] - 1), min(int(x * grid[1]), grid[1] - 1)


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a.double().flatten() - a.double().mean(), b.double().flatten() - b.double().mean()
    return float((a @ b) / (a.norm() * b.norm()).clamp_min(1e-12))
