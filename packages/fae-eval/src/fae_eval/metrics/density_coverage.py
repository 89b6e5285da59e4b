"""Density and coverage (Naeem et al. 2020): precision and recall that a few outliers do not decide.

Around each point of the reference lies a ball that reaches its k-th nearest neighbour in the reference. Density counts
in how many balls a generated point lies, coverage the balls in which any generated point lies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fae_eval.metrics.neighbours import prepared, radii_of, tiles, twins_of


def density_coverage(ref: Tensor, gen: Tensor, k: int = 5, *, tile: int = 1024) -> tuple[float, float]:
    """Density and coverage of generated features with respect to those of the reference.

    Both are near 1 for two large sets of the same distribution: density is 1 on average, coverage 1 - 2^-k.

    Args:
        ref: features of the reference, (N, d).
        gen: features of the generated images, (M, d).
        k: neighbours, the point itself not counted; 5 in the paper.
        tile: rows and columns of a tile.

    Returns:
        Density, at least 0 and perhaps above 1, and coverage in [0, 1].

    Raises:
        FAEError: where the reference has k points or fewer, dimensions differ, or numbers are not finite or too large.
    """
    ref, gen = prepared("fp32", ref, gen)
    radii = radii_of(ref, k, "fp32", tile)
    inside = torch.zeros(len(gen), dtype=torch.long, device=gen.device)
    covered = torch.zeros(len(ref), dtype=torch.bool, device=ref.device)
    for rows, columns, distances in tiles(ref, gen, "fp32", tile, twins=twins_of(ref, gen, "fp32")):
        within = distances < radii[rows, None]  # strictly, as in the authors' code
        inside[columns] += within.sum(0)
        covered[rows] |= within.any(1)
    return inside.double().mean().item() / k, covered.double().mean().item()
