"""Tables for rotary position embedding on a grid (RoFormer; axial in two dimensions as in EVA-02 and LightningDiT)."""

from __future__ import annotations

import torch
from torch import Tensor

from fae_core.layers.fp32_buffers import Fp32Buffers


def axial_angles(height: int, width: int, head_dim: int, theta: float = 10000.0) -> Tensor:
    """Angles of rotation on a grid: the first half depends on the row, the second on the column.

    Frequencies within each half are theta^(-2i / (head_dim / 2)).

    Args:
        height: of the grid.
        width: of the grid.
        head_dim: width of an attention head, a multiple of 4.
        theta: base of the frequencies.

    Returns:
        (height * width, head_dim / 2) float64, on the default device.
    """
    if head_dim % 4:
        raise ValueError(f"axial rope needs a head dimension that is a multiple of 4, not {head_dim}")
    quarter = head_dim // 4
    frequencies = theta ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    rows = torch.arange(height, dtype=torch.float64)[:, None] * frequencies
    columns = torch.arange(width, dtype=torch.float64)[:, None] * frequencies
    grid = (height, width, quarter)
    return torch.cat([rows[:, None].expand(grid), columns[None].expand(grid)], dim=-1).reshape(height * width, -1)


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
        angles = axial_angles(*self.grid)
        return {"cos": angles.cos().float(), "sin": angles.sin().float()}

    def forward(self) -> tuple[Tensor, Tensor]:
        """(cos, sin), each (N, head_dim / 2)."""
        return self.cos, self.sin
