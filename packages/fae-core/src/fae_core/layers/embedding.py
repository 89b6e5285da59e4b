"""Embeddings of time, labels and positions, as DiT defines them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_core.tracing import is_readable


class TimestepEmbedding(nn.Module):
    """Sinusoids of t (cosines first, periods up to 10000) through a two-layer MLP with SiLU.

    Args:
        dim: width of the result.
        frequencies: how many sinusoids there are, cosines and sines together.
    """

    def __init__(self, dim: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        """(B, dim) of times (B,).

        Args:
            t: Times (B,), any numbers.
        """
        half = self.frequencies // 2
        rates = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angles = t.float()[:, None] * rates
        features = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))


class LabelEmbedding(nn.Module):
    """A table of class embeddings.

    Args:
        classes: how many classes there are.
        dim: width of an embedding.
        null: whether there is one more row, at index `classes`, for "no class".
    """

    def __init__(self, classes: int, dim: int, null: bool = True) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes + int(null), dim)

    @property
    def null_label(self) -> int:
        """The label that stands for "no class"."""
        return self.classes

    def forward(self, labels: Tensor) -> Tensor:
        """(B, dim) of labels (B,) int64.

        Args:
            labels: (B,) int64, in 0 .. classes - 1, or `null_label` where there is a row for it.
        """
        return self.table(labels)


def class_labels(labels: Any, batch: int, classes: int, *, null: bool = False) -> Tensor:
    """Labels (B,) int64, checked.

    Labels on a GPU are checked there, without waiting: one that is out of range ends the process with a device error.
    Where values cannot be read (`fae_core.tracing.is_readable`) their range is not checked.

    Args:
        labels: integers in 0 .. classes - 1, as a tensor or what torch makes one of.
        batch: how many there must be.
        classes: how many classes there are.
        null: whether `classes` itself, which stands for "no class", is allowed.

    Raises:
        FAEError: labels are of another type or number, or out of range.
    """
    try:
        # What is on a device stays there, whatever the default device is; as_tensor would move it.
        labels = labels if isinstance(labels, Tensor) else torch.as_tensor(labels, device="cpu")
    except (TypeError, ValueError, RuntimeError):  # texts, nested lists of several lengths, ...
        raise FAEError(f"expected {batch} integer class labels, got {str(labels)[:60]}") from None
    if labels.ndim != 1 or labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise FAEError(
            f"expected {batch} integer class labels of shape ({batch},), got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    if labels.shape[0] != batch:
        raise FAEError(f"{len(labels)} conditions do not fit {batch} latents: expected {batch} integer class labels")
    rows, signed = classes + int(null), labels.long()  # of uint64 what is too large becomes negative
    if not is_readable(labels):
        pass
    elif labels.device.type == "cuda":
        inside = ((signed >= 0) & (signed < rows)).all()
        torch._assert_async(inside)  # pyright: ignore[reportPrivateImportUsage]  # no public name
    elif not 0 <= int(signed.min()) <= int(signed.max()) < rows:
        found = labels.tolist()
        raise FAEError(
            f"class labels must lie in 0..{classes - 1}, got {min(found)}..{max(found)}; no class at all is None"
        )
    return signed


def sincos_position_table(height: int, width: int, dim: int, *, span: int | None = None) -> Tensor:
    """MAE's fixed 2-D table as DiT uses it: half the width for columns (x), half for rows (y).

    Args:
        height: of the grid.
        width: of the grid.
        dim: width of an embedding, a multiple of 4.
        span: positions go from 0 to this, exclusive, whatever the grid is, as in diffusers; None: in steps of 1.

    Returns:
        (height * width, dim) fp32, on the default device.
    """
    if dim % 4:
        raise ValueError(f"a 2-D sinusoidal table needs a width that is a multiple of 4, not {dim}")
    rates = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = (
        torch.arange(side, dtype=torch.float64) * (1 if span is None else span / side) for side in (height, width)
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    parts = [torch.cat([a.sin(), a.cos()], dim=1) for a in (x.reshape(-1, 1) * rates, y.reshape(-1, 1) * rates)]
    return torch.cat(parts, dim=1).float()
