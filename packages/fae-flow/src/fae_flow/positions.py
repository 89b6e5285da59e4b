"""Rotary angles of a prefix followed by a grid, with STARFlow's positions.

The angle of rotation i of a head depends on the row, the column or the text position. Rows and columns are scaled so
that a grid of any shape covers `length`^2; text positions are spread over [0, length). Text has row 0 and column 0; the
grid has text position 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

THETA = 10000.0


def rope_tables(
    height: int,
    width: int,
    prefix: int,
    head_dim: int,
    *,
    text_frequencies: int = 0,
    length: float | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Tables of rotary angles, of a prefix and then a grid in raster order.

    Args:
        height: rows of the grid, in tokens.
        width: columns of the grid, in tokens.
        prefix: number of tokens before the grid.
        head_dim: dimension of a head.
        text_frequencies: how many rotations depend on the text position.
        length: what the mean side of the grid, sqrt(height * width), is scaled to; None = itself (no scaling).
        device: of the tables.

    Returns:
        Cosines and sines, (prefix + height * width, head_dim / 2) fp32 each.
    """
    side = math.sqrt(height * width)
    length = side if length is None else length
    per_axis = (head_dim // 2 - text_frequencies) // 2

    def rates(count: int) -> Tensor:
        return THETA ** -(torch.arange(count, dtype=torch.float64, device=device) / max(count, 1))

    rows = torch.arange(height, dtype=torch.float64, device=device)[:, None] / side * length * rates(per_axis)
    columns = torch.arange(width, dtype=torch.float64, device=device)[:, None] / side * length * rates(per_axis)
    shape = (height, width, per_axis)
    grid = torch.cat([rows[:, None].expand(shape), columns[None].expand(shape)], dim=-1).reshape(height * width, -1)
    angles = torch.zeros(prefix + height * width, head_dim // 2, dtype=torch.float64, device=device)
    angles[prefix:, : 2 * per_axis] = grid
    if prefix and text_frequencies:
        text = torch.arange(prefix, dtype=torch.float64, device=device)[:, None] / prefix * length
        angles[:prefix, 2 * per_axis :] = text * rates(text_frequencies)
    return angles.cos().float(), angles.sin().float()
