"""Distances between features by tiles, and the radius of each point's neighbourhood.

One tile of distances exists at a time. Distances within a set are computed once for each pair (rows and columns of a
tile are both used), and so are those between the sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_eval.metrics.checks import finite_rows, same_width

_LARGEST = 1e19  # whose square is a number in single precision
_SAME = 1e-4  # of a feature's length: further apart than rounding puts an image's features, nearer than two images'
Precision = Literal["fp32", "adm"]


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
    (features,) = prepared(precision, features)
    return radii_of(features, k, precision, tile)


def radii_of(features: Tensor, k: int, precision: Precision, tile: int) -> Tensor:
    """As `manifold_radii`, of features that `prepared` gave."""
    count = len(features)
    if k < 1 or count <= k:
        raise FAEError(f"precision and recall with k={k} need more than {max(k, 1)} samples, got {count}")
    if tile < 1:
        raise FAEError(f"a tile has at least one row, not {tile}")
    nearest = torch.full((count, k + 1), torch.inf, device=features.device)
    twins = twins_of(features, features, precision)
    for rows, columns, distances in tiles(features, features, precision, tile, upper_half=True, twins=twins):
        nearest[rows] = _keep_nearest(nearest[rows], distances)
        if columns != rows:
            # Along rows that are contiguous in memory the search takes a third of the time, copying included.
            nearest[columns] = _keep_nearest(nearest[columns], distances.T.contiguous())
    return nearest[:, k].clone()


def shared_rows(features: Tensor, others: Tensor) -> int:
    """How many rows are also among others, but for rounding, which depends on an image's place in its batch.

    Args:
        features: (N, d).
        others: (M, d).
    """
    seeded, dim = torch.Generator().manual_seed(0), features.shape[1]
    direction = torch.rand(dim, dtype=torch.float64, generator=seeded, device="cpu").to(features.device)
    values, order = torch.cat([part.double() @ direction for part in others.split(1024)]).sort()
    shared = 0
    for part in features.split(1024):  # in parts, since fifty thousand rows in float64 take gigabytes
        rows = part.double()
        # Rows that are alike lie side by side along a line, if not always as the very next.
        after = torch.searchsorted(values, rows @ direction)
        near = (after[:, None] + torch.arange(-4, 4, device=after.device)).clamp(0, len(others) - 1)
        apart = torch.stack([(rows - others[order[column]]).norm(dim=1) for column in near.T]).amin(0)
        shared += int((apart <= _SAME * rows.norm(dim=1)).sum())
    return shared


def prepared(precision: Precision, *sets: Tensor) -> tuple[Tensor, ...]:
    """Sets of features as fp32, from which squared distances can be computed.

    In fp32 the first set's mean is taken off all of them: distances do not change, and features that vary little beside
    their mean keep the digits in which they differ. ADM's fp16 takes them as they are.

    Raises:
        FAEError: for numbers that are not finite, or whose squared distances overflow, and sets of different widths.
    """
    sets = tuple(one if isinstance(one, Tensor) else torch.as_tensor(one, device="cpu") for one in sets)
    sets = tuple(finite_rows("features of precision and recall", one.float()) for one in sets)
    for one in sets:
        same_width(sets[0], one)
        if not bool((one.abs().amax(1) < _LARGEST / one.shape[1]).all()):
            raise FAEError("features are too large for precision and recall: their squared distances overflow")
    if precision == "fp32" and len(sets[0]):
        mean = sets[0].mean(0, dtype=torch.float64).float()
        sets = tuple(one - mean for one in sets)
    return sets


def twins_of(a: Tensor, b: Tensor, precision: Precision) -> tuple[Tensor, Tensor] | None:
    """A number for each row of a and b, equal where rows are equal; None where fp16's own rounding is wanted.

    Between equal rows |a|^2 - 2ab + |b|^2 leaves rounding errors. Where radii are 0, as in a constant set, these would
    decide which points are inside.
    """
    if precision == "adm":
        return None
    seeded = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (a.shape[1],), generator=seeded, device="cpu").to(a.device)

    def numbers(x: Tensor) -> Tensor:
        # A hash of the bits, in integers: a sum of floats would depend on a row's position. Minus zero becomes zero.
        return torch.cat([((part + 0.0).view(torch.int32).long() * factors).sum(1) for part in x.split(1024)])

    return numbers(a), numbers(b)


def _keep_nearest(best: Tensor, distances: Tensor) -> Tensor:
    """The smallest entries of each row of a tile, merged with `best` (n, k + 1), sorted."""
    wanted = min(best.shape[1], distances.shape[1])
    smallest = distances.topk(wanted, dim=1, largest=False, sorted=False).values
    return torch.cat([best, smallest], 1).sort(1).values[:, : best.shape[1]]


def tiles(
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
