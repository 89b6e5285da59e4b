"""Network: the interface of a library's model to a Backbone, and the maps of features that it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

Grid = tuple[int, int]


@dataclass(frozen=True)
class FeatureMap:
    """The output of one layer.

    Attributes:
        tokens_BNC: (B, h * w, C), row-major over the grid, without prefix tokens.
        grid: (h, w).
    """

    tokens_BNC: Tensor
    grid: Grid

    @classmethod
    def of(cls, map_BCHW: Tensor) -> FeatureMap:
        """A convolutional map as tokens: a view if the map is channels_last, as convolutional networks make it."""
        height, width = map_BCHW.shape[-2:]
        return cls(map_BCHW.permute(0, 2, 3, 1).flatten(1, 2), (height, width))


class Network(nn.Module, ABC):
    """A library's model that returns the outputs of chosen layers.

    Attributes:
        layers: the chosen layers, counted from 0.
        final_norm: whether the outputs pass through a final norm.
        channels_last: whether convolutions dominate; on a CPU they run several times faster in that memory layout.
    """

    layers: tuple[int, ...]
    final_norm: bool
    channels_last: bool

    @property
    @abstractmethod
    def norm(self) -> nn.Module | None:
        """The norm behind the last layer, where there is one."""

    @abstractmethod
    def forward(self, x: Tensor) -> list[FeatureMap]:
        """The outputs of `layers`, in their order, for normalised images (B, 3, H, W)."""

    @abstractmethod
    def head(self, features: FeatureMap, pool: str | None) -> Tensor:
        """Logits (B, classes) of the pretrained classifier; see `Backbone.head`."""

    @abstractmethod
    def embed(self, features: FeatureMap, pool: str | None) -> Tensor:
        """The pooled vector (B, D') in front of the classifier; see `Backbone.embed`."""

    @abstractmethod
    def class_token(self, x: Tensor) -> Tensor:
        """The class token (B, D) behind the final norm, for normalised images; see `Backbone.class_token`."""
