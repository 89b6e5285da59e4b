"""Embeddings of time, labels and positions, as DiT defines them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fae_core.errors import FAEError


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


def class_labels(labels: Any, batch: int, classes: int, *, null: bool = False) -> Tensor:
    """Labels (B,) int64, each in 0 .. classes - 1. null: `classes` itself, which stands for "no class", is one too.

    Raises FAEError. Labels on a GPU are not waited for: one that is out of range stops the device.
    """
    labels = torch.as_tensor(labels)
    if labels.ndim != 1 or labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise FAEError(
            f"expected {batch} integer class labels of shape ({batch},), got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if len(labels) != batch:
        raise FAEError(f"{len(labels)} conditions do not fit {batch} latents: expected {batch} integer class labels")
    rows = classes + int(null)
    if labels.device.type == "cuda":
        torch._assert_async(((labels >= 0) & (labels < rows)).all())
    elif not labels.is_meta and batch and not 0 <= int(labels.min()) <= int(labels.max()) < rows:
        raise FAEError(
            f"class labels must lie in 0..{classes - 1}, got {int(labels.min())}..{int(labels.max())}; no class at all is None"
        )
    return labels.long()


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
