"""Tables for rotary position embedding on a grid (RoFormer; axial in two dimensions as in EVA-02 and LightningDiT)."""

from __future__ import annotations

import torch
from torch import Tensor

from fae_core.layers.fp32_buffers import Fp32Buffers


def axial_angles(height: int, width: int, head_dim: int, theta: float = 10000.0) -> Tensor:
    """Angles (height * width, head_dim / 2): the first half of them turns with the row, the second with the column.

    Frequencies within each half are theta^(-2i / (head_dim / 2)). head_dim must be a multiple of 4.
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
    """Cosine and sine tables (N, head_dim / 2) of a fixed grid, fp32 whatever the weights are, moved with the model and never saved."""

    def __init__(self, height: int, width: int, head_dim: int, theta: float = 10000.0) -> None:
        super().__init__()
        self.grid = (height, width, head_dim, theta)
        self.register_tables(persistent=False)

    def tables(self) -> dict[str, Tensor]:
        angles = axial_angles(*self.grid)
        return {"cos": angles.cos().float(), "sin": angles.sin().float()}

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.cos, self.sin
