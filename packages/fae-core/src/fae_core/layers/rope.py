"""Tables for rotary position embedding on a grid (RoFormer; axial in two dimensions as in EVA-02 and LightningDiT)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fae_core.layers.fp32_buffers import Fp32Buffers


def axial_angles(
    height: int, width: int, head_dim: int, theta: float = 10000.0, device: torch.device | None = None
) -> Tensor:
    """Angles of rotation on a grid: the first half depends on the row, the second on the column.

    Frequencies within each half are theta^(-2i / (head_dim / 2)).

    Args:
        height: of the grid.
        width: of the grid.
        head_dim: width of an attention head, a multiple of 4.
        theta: base of the frequencies.
        device: where to make them; None: torch's default device.

    Returns:
        (height * width, head_dim / 2) float64, on the default device.
    """
    if head_dim % 4:
        raise ValueError(f"axial rope needs a head dimension that is a multiple of 4, not {head_dim}")
    quarter = head_dim // 4
    count = partial(torch.arange, dtype=torch.float64, device=device)
    frequencies = theta ** -(count(quarter) / quarter)
    rows = count(height)[:, None] * frequencies
    columns = count(width)[:, None] * frequencies
    grid = (height, width, quarter)
    return torch.cat([rows[:, None].expand(grid), columns[None].expand(grid)], dim=-1).reshape(height * width, -1)


def axial_tables(
    height: int, width: int, head_dim: int, theta: float = 10000.0, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of `axial_angles`, (height * width, head_dim / 2) fp32 each.

    Args:
        height: of the grid.
        width: of the grid.
        head_dim: width of an attention head, a multiple of 4.
        theta: base of the frequencies.
        device: where to make them; None: torch's default device.
    """
    angles = axial_angles(height, width, head_dim, theta, device)
    return angles.cos().float(), angles.sin().float()


class AxialRope(Fp32Buffers):
    """Cosine and sine tables of a fixed grid: fp32 whatever the weights are, moved with the model and never saved.

    Args:
        height: of the grid.
        width: of the grid.
        head_dim: width of an attention head, a multiple of 4.
        theta: base of the frequencies.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, height: int, width: int, head_dim: int, theta: float = 10000.0) -> None:
        super().__init__()
        self.grid = (height, width, head_dim, theta)
        self.register_tables(persistent=False)

    def tables(self) -> dict[str, Tensor]:
        return dict(zip(("cos", "sin"), axial_tables(*self.grid), strict=True))

    def forward(self) -> tuple[Tensor, Tensor]:
        """(cos, sin), each (N, head_dim / 2)."""
        return self.cos, self.sin
