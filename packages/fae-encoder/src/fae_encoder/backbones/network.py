"""What a library's network looks like to a Backbone, and what it gives: maps of features of the selected layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

Grid = tuple[int, int]


@dataclass(frozen=True)
class FeatureMap:
    """The output of one layer: tokens (B, h*w, C) and their grid (h, w)."""

    tokens_BNC: Tensor
    grid: Grid


class Network(Protocol):
    """What a library's model looks like from here."""

    layers: tuple[int, ...]  # selected, from 0
    final_norm: bool  # whether a final norm is applied to what comes out
    norm: nn.Module | None  # that final norm
    channels_last: bool  # whether convolutions dominate, which run several times faster in that layout on a CPU

    def forward(self, x: Tensor) -> list[FeatureMap]: ...

    def head(self, features: FeatureMap, pool: str | None) -> Tensor: ...

    def embed(self, features: FeatureMap, pool: str | None) -> Tensor: ...

    def class_token(self, x: Tensor) -> Tensor: ...
