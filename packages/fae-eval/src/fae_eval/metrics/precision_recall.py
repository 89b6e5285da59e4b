"""Improved precision and recall (Kynkaanniemi et al. 2019), in the form of ADM's evaluator, by tiles.

A set's manifold is the union of balls around its points, each reaching its k-th nearest neighbour. Precision is the
share of generated points inside the reference's manifold, recall the reverse. One tile of distances exists at a time.
Distances within a set are computed once for each pair (rows and columns of a tile are both used), and so are those
between the sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_eval.metrics.checks import finite_rows, same_width

_LARGEST = 1e19  # whose square is a number in single precision
Precision = Literal["fp32", "adm"]


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
    ref, gen = _checked(ref), _checked(gen)
    same_width(ref, gen)
    ref_radii = manifold_radii(ref, k, precision=precision, tile=tile)
    gen_radii = manifold_radii(gen, k, precision=precision, tile=tile)
    gen_inside = torch.zeros(len(gen), dtype=torch.bool, device=gen.device)
    ref_inside = torch.zeros(len(ref), dtype=torch.bool, device=ref.device)
    for rows, columns, distances in _tiles(ref, gen, precision, tile, twins=_twins(ref, gen, precision)):
        gen_inside[columns] |= (distances - ref_radii[rows, None]).amin(0) <= 0
        ref_inside[rows] |= (distances - gen_radii[None, columns]).amin(1) <= 0
    return gen_inside.double().mean().item(), ref_inside.double().mean().item()


def manifold_radii(features: Tensor, k: int = 3, *, precision: Precision = "fp32", tile: int = 1024) -> Tensor:
    """Squared distance of each row to its k-th nearest neighbour, (N,) fp32; ties and duplicates count.

    Args:
        features: (N, d).
        k: which neighbour, from 1.
        precision: as in `precision_recall`.
        tile: rows and columns of a tile.

    Raises:
        FAEError: where there are k rows or fewer, or numbers are not finite or too large.
    """
    features = _checked(features)
    count = len(features)
    if k < 1 or count <= k:
        raise FAEError(f"precision and recall with k={k} need more than {max(k, 1)} samples, got {count}")
    if tile < 1:
        raise FAEError(f"a tile has at least one row, not {tile}")
    nearest = torch.full((count, k + 1), torch.inf, device=features.device)
    twins = _twins(features, features, precision)
    for rows, columns, distances in _tiles(features, features, precision, tile, upper_half=True, twins=twins):
        nearest[rows] = _keep_nearest(nearest[rows], distances)
        if columns != rows:
            # Along rows that are contiguous in memory the search takes a third of the time, copying included.
            nearest[columns] = _keep_nearest(nearest[columns], distances.T.contiguous())
    return nearest[:, k].clone()


def _checked(features: Tensor) -> Tensor:
    features = finite_rows("features of precision and recall", torch.as_tensor(features).float())
    if not bool((features.abs().amax(1) < _LARGEST / features.shape[1]).all()):
        raise FAEError("features are too large for precision and recall: their squared distances overflow")
    return features


def _twins(a: Tensor, b: Tensor, precision: Precision) -> tuple[Tensor, Tensor] | None:
    """A number for each row of a and b, equal where rows are equal; None where fp16's own rounding is wanted.

    Between equal rows |a|^2 - 2ab + |b|^2 leaves rounding errors. Where radii are 0, as in a constant set, these would
    decide which points are inside.
    """
    if precision == "adm":
        return None
    factors = torch.randint(-(2**62), 2**62, (a.shape[1],), generator=torch.Generator().manual_seed(0)).to(a.device)

    def numbers(x: Tensor) -> Tensor:
        # A hash of the bits, in integers: a sum of floats would depend on a row's position. Minus zero becomes zero.
        return torch.cat([((part + 0.0).view(torch.int32).long() * factors).sum(1) for part in x.split(1024)])

    return numbers(a), numbers(b)


def _keep_nearest(best: Tensor, distances: Tensor) -> Tensor:
    """The smallest entries of each row of a tile, merged with `best` (n, k + 1), sorted."""
    wanted = min(best.shape[1], distances.shape[1])
    smallest = distances.topk(wanted, dim=1, largest=False, sorted=False).values
    return torch.cat([best, smallest], 1).sort(1).values[:, : best.shape[1]]


def _tiles(
    a: Tensor,
    b: Tensor,
    precision: Precision,
    tile: int,
    *,
    upper_half: bool = False,
    twins: tuple[Tensor, Tensor] | None = None,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, columns and squared distances max(|a|^2 - 2ab + |b|^2, 0), fp32, tile by tile; valid until the next tile.

    upper_half: only tiles with columns at or after the rows.
    """
    if precision not in ("fp32", "adm"):
        raise FAEError(f"precision must be fp32 or adm, not {precision!r}")
    squares_a, squares_b = (torch.cat([(part * part).sum(1) for part in x.split(tile)]) for x in (a, b))
    buffer = torch.empty(min(tile, len(a)) * min(tile, len(b)), device=a.device)
    for i in range(0, len(a), tile):
        rows = slice(i, i + tile)
        for j in range(i if upper_half else 0, len(b), tile):
            columns = slice(j, j + tile)
            if precision == "adm" and (half := _half_distances(a[rows], b[columns])) is not None:
                yield rows, columns, half
                continue
            shape = len(squares_a[rows]), len(squares_b[columns])
            out = buffer[: shape[0] * shape[1]].view(shape)
            torch.mm(a[rows], b[columns].T, out=out)
            out.mul_(-2).add_(squares_a[rows, None]).add_(squares_b[columns]).clamp_(min=0)
            if twins is not None:
                out.masked_fill_(twins[0][rows, None] == twins[1][columns], 0)
            yield rows, columns, out


def _half_distances(a: Tensor, b: Tensor) -> Tensor | None:
    """ADM's fp16 block, or None where it overflows."""
    a, b = a.half(), b.half()
    squares_a, squares_b = (a * a).sum(1, keepdim=True), (b * b).sum(1)
    distances = (squares_a - 2 * (a @ b.T)).add_(squares_b).clamp_(min=0)
    return distances.float() if bool(distances.isfinite().all()) else None
