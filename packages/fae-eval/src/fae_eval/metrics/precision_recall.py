"""Improved precision and recall (Kynkaanniemi et al. 2019), in the form of ADM's evaluator, by tiles.

A set's manifold is the union of balls around its points, each reaching its k-th nearest neighbour. Precision is the
share of generated points inside the reference's manifold, recall the reverse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fae_eval.metrics.neighbours import Precision, prepared, radii_of, tiles, twins_of


def precision_recall(
    ref: Tensor, gen: Tensor, k: int = 3, *, precision: Precision = "fp32", tile: int = 1024
) -> tuple[float, float]:
    """Precision and recall of generated features against those of the reference, both in [0, 1].

    In fp32 equal rows are exactly 0 apart. fp16 rounds differently on every device: up to 1 % of the rows may change
    sides.

    Args:
        ref: features of the reference, (N, d).
        gen: features of the generated images, (M, d).
        k: neighbours; the radius is entry k of a sorted row of distances, the point itself at 0, as in ADM.
        precision: "fp32", or "adm" for its fp16 blocks of distances (a block with an overflow is redone in fp32).
        tile: rows and columns of a tile.

    Returns:
        Precision and recall.

    Raises:
        FAEError: where a set has k points or fewer, dimensions differ, or numbers are not finite or too large.
    """
    ref, gen = prepared(precision, ref, gen)
    ref_radii = radii_of(ref, k, precision, tile)
    gen_radii = radii_of(gen, k, precision, tile)
    gen_inside = torch.zeros(len(gen), dtype=torch.bool, device=gen.device)
    ref_inside = torch.zeros(len(ref), dtype=torch.bool, device=ref.device)
    for rows, columns, distances in tiles(ref, gen, precision, tile, twins=twins_of(ref, gen, precision)):
        gen_inside[columns] |= (distances - ref_radii[rows, None]).amin(0) <= 0
        ref_inside[rows] |= (distances - gen_radii[None, columns]).amin(1) <= 0
    return gen_inside.double().mean().item(), ref_inside.double().mean().item()
