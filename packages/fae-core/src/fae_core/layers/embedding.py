"""Embeddings of time, labels and positions, as DiT defines them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TimestepEmbedding(nn.Module):
    """Sinusoids of t (cosines first, 256 numbers, period up to 10000) through a two-layer SiLU MLP: (B,) -> (B, dim)."""

    def __init__(self, dim: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        half = self.frequencies // 2
        rates = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angles = t.float()[:, None] * rates
        features = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(features.to(self.mlp[0].weight.dtype))


class LabelEmbedding(nn.Module):
    """A table of class embeddings; where `null` is on, one more row stands for "no class" (index `classes`)."""

    def __init__(self, classes: int, dim: int, null: bool = True) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes + int(null), dim)

    @property
    def null_label(self) -> int:
        return self.classes

    def forward(self, labels: Tensor) -> Tensor:
        return self.table(labels)


def sincos_position_table(height: int, width: int, dim: int) -> Tensor:
    """MAE's fixed 2-D table (height * width, dim) as DiT uses it: half the width for columns (x), half for rows (y)."""
    if dim % 4:
        raise ValueError(f"a 2-D sinusoidal table needs a width that is a multiple of 4, not {dim}")
    rates = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    parts = [torch.cat([a.sin(), a.cos()], dim=1) for a in (x.reshape(-1, 1) * rates, y.reshape(-1, 1) * rates)]
    return torch.cat(parts, dim=1).float()
