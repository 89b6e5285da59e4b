"""A network of one image size over larger images or latents: overlapping tiles, blended by linear ramps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

OVERLAP = 4  # a tile shares this part of its cells with the next: a quarter, as in diffusers


def tiled(run: Callable[[Tensor], Tensor], x: Tensor, tile: tuple[int, int], step_in: int, step_out: int) -> Tensor:
    """What `run` makes of the tiles of x, as one tensor.

    Args:
        run: Of a tile (B, C, tile height * step_in, tile width * step_in); gives step_out elements a cell and side.
        x: (B, C, H, W), at least a tile, in whole cells.
        tile: Height and width in cells.
        step_in: Elements of x on a cell's side.
        step_out: Elements of the result on a cell's side.
    """
    cells = [side // step_in for side in x.shape[2:]]
    total = weights = x.new_empty(0)
    for top in _starts(cells[0], tile[0]):
        for left in _starts(cells[1], tile[1]):
            piece = run(x[:, :, _span(top, tile[0], step_in), _span(left, tile[1], step_in)])
            place = (..., _span(top, tile[0], step_out), _span(left, tile[1], step_out))
            if not total.numel():
                shape = (*piece.shape[:2], *(side * step_out for side in cells))
                total, weights = piece.new_zeros(shape, dtype=torch.float32), piece.new_zeros(shape[2:]).float()
            rows, columns = (_ramp(side, step_out, piece.device) for side in tile)
            total[place] += piece * (rows[:, None] * columns)
            weights[place] += rows[:, None] * columns
    return (total / weights).to(x.dtype)


def _span(start: int, count: int, step: int) -> slice:
    return slice(start * step, (start + count) * step)


def _starts(cells: int, tile: int) -> list[int]:
    """The first cells of the tiles of one axis; the last tile ends with it."""
    stride = tile - max(1, tile // OVERLAP) if tile > 1 else 1
    return [*range(0, cells - tile, stride), cells - tile]


def _ramp(tile: int, step: int, device: torch.device) -> Tensor:
    """The weights of a tile along one axis: rising over the overlap at both ends. Their sum is divided out."""
    size, overlap = tile * step, max(1, tile // OVERLAP) * step
    place = torch.arange(size, device=device)
    return ((torch.minimum(place, size - 1 - place) + 0.5) / overlap).clamp(max=1)
