"""Improved precision and recall (Kynkaanniemi et al. 2019), in the form of ADM's evaluator, by tiles.

A set's manifold is the union of balls around its points, each reaching its k-th nearest neighbour. Precision is the share of
generated points inside the reference's manifold, recall the reverse. One tile of distances exists at a time; a set's own
distances are made once for each pair (rows and columns of a tile are both used), and so is the cross table.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fae_core.errors import FAEError

Precision = Literal["fp32", "adm"]


def precision_recall(
    ref: Tensor, gen: Tensor, k: int = 3, *, precision: Precision = "fp32", tile: int = 1024
) -> tuple[float, float]:
    """(precision, recall) of generated features (M, d) against reference features (N, d), both in [0, 1].

    k: neighbours; the radius is entry k of the sorted row of distances with the point itself at 0, as in ADM.
    precision: "fp32", or "adm" for its fp16 distance blocks (a tile with an overflow is redone in fp32). fp16 rounds
        differently on every device: up to 1 % of the rows may flip.
    Raises FAEError where a set has k points or fewer, or the dimensions differ.
    """
    ref, gen = torch.as_tensor(ref).float(), torch.as_tensor(gen).float()
    if ref.ndim != 2 or gen.ndim != 2 or ref.shape[1] != gen.shape[1]:
        raise FAEError(f"features of shapes {tuple(ref.shape)} and {tuple(gen.shape)} cannot be compared")
    ref_radii = manifold_radii(ref, k, precision=precision, tile=tile)
    gen_radii = manifold_radii(gen, k, precision=precision, tile=tile)
    gen_inside = torch.zeros(len(gen), dtype=torch.bool, device=gen.device)
    ref_inside = torch.zeros(len(ref), dtype=torch.bool, device=ref.device)
    for i in range(0, len(ref), tile):
        rows = slice(i, i + tile)
        for j in range(0, len(gen), tile):
            columns = slice(j, j + tile)
            distances = _squared_distances(ref[rows], gen[columns], precision)
            gen_inside[columns] |= (distances <= ref_radii[rows, None]).any(0)
            ref_inside[rows] |= (distances <= gen_radii[None, columns]).any(1)
    return gen_inside.double().mean().item(), ref_inside.double().mean().item()


def manifold_radii(features: Tensor, k: int = 3, *, precision: Precision = "fp32", tile: int = 1024) -> Tensor:
    """Squared distance from each row of (N, d) to its k-th nearest neighbour, (N,) fp32; ties and duplicates count."""
    count = len(features)
    if k < 1 or count <= k:
        raise FAEError(f"precision and recall with k={k} need more than {max(k, 1)} samples, got {count}")
    nearest = torch.full((count, k + 1), torch.inf, device=features.device)
    for i in range(0, count, tile):
        rows = slice(i, i + tile)
        for j in range(i, count, tile):
            columns = slice(j, j + tile)
            distances = _squared_distances(features[rows], features[columns], precision)
            nearest[rows] = _keep_nearest(nearest[rows], distances, k)
            if j > i:
                nearest[columns] = _keep_nearest(nearest[columns], distances.T, k)
    return nearest[:, k].clone()


def _keep_nearest(best: Tensor, distances: Tensor, k: int) -> Tensor:
    smallest = distances.topk(min(k + 1, distances.shape[1]), dim=1, largest=False, sorted=False).values
    return torch.cat([best, smallest], 1).sort(1).values[:, : k + 1]


def _squared_distances(a: Tensor, b: Tensor, precision: Precision) -> Tensor:
    """max(|a|^2 - 2ab + |b|^2, 0), (A, B) fp32."""
    if precision == "adm":
        half = _expand(a.half(), b.half())
        if bool(half.isfinite().all()):
            return half.float()
    elif precision != "fp32":
        raise FAEError(f"precision must be fp32 or adm, not {precision!r}")
    return _expand(a, b)


def _expand(a: Tensor, b: Tensor) -> Tensor:
    squares_a, squares_b = (a * a).sum(1, keepdim=True), (b * b).sum(1)
    return (squares_a - 2 * (a @ b.T)).add_(squares_b).clamp_(min=0)
