"""Two clusters of patches: foreground and background, without labels."""

from __future__ import annotations

import torch
from torch import Tensor

from fae_core.errors import FAEError


def kmeans(points: Tensor, clusters: int, *, seed: int = 0, rounds: int = 50) -> Tensor:
    """Cluster number of each point, (N,), by k-means from a k-means++ start.

    Args:
        points: (N, D).
        clusters: how many.
        seed: of the start; the result is deterministic.
        rounds: most iterations.

    Raises:
        FAEError: where there are fewer points than clusters.
    """
    if len(points) < clusters:
        raise FAEError(f"{clusters} clusters need at least {clusters} patches, not {len(points)}: images are too small")
    points = points.double().cpu()
    generator = torch.Generator().manual_seed(seed)
    centres = points[torch.randint(len(points), (1,), generator=generator, device="cpu")]
    while len(centres) < clusters:
        distance = torch.cdist(points, centres).amin(1).square()
        chances = distance if float(distance.sum()) > 0 else torch.ones_like(distance)
        centres = torch.cat([centres, points[torch.multinomial(chances, 1, generator=generator)]])
    assigned = torch.full((len(points),), -1, device="cpu")
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(1)
        if torch.equal(nearest, assigned):
            break
        assigned = nearest
        # A cluster that lost all its points keeps its centre.
        centres = torch.stack(
            [points[assigned == c].mean(0) if (assigned == c).any() else centres[c] for c in range(clusters)]
        )
    return assigned


def foreground(tokens: Tensor, grid: tuple[int, int], *, seed: int = 0) -> Tensor:
    """Mask (B, N) of the foreground: of two clusters over all images, the one that touches the images' borders less.

    Args:
        tokens: (B, N, D).
        grid: rows and columns of the N tokens.
        seed: of the clusters.

    Raises:
        FAEError: where there is one patch in all, which has no background.
    """
    count, patches, _ = tokens.shape
    unit = torch.nn.functional.normalize(tokens.double().flatten(0, 1), dim=-1)
    assigned = kmeans(unit, 2, seed=seed).view(count, patches)
    border = torch.ones(grid, dtype=torch.bool, device="cpu")
    border[1:-1, 1:-1] = False
    border = border.flatten().expand(count, patches)
    touch = [float((border & (assigned == c)).sum() / (assigned == c).sum().clamp_min(1)) for c in (0, 1)]
    return assigned == (0 if touch[0] < touch[1] else 1)
