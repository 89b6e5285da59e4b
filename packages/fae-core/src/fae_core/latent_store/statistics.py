"""Per-channel mean and standard deviation in one pass, equal up to rounding for any batch size.

The one implementation for latents (encoding, the export of training stages) and for backbone features (FeatureNorm).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

FLOOR = 1e-6  # the smallest standard deviation that is ever reported
_ROWS = 64  # samples widened to float64 at a time


@dataclass(frozen=True)
class ChannelSums:
    """Sums over the values of each channel, in float64.

    They depend on the samples of a shard and their order alone; shards are added in their order.

    Args:
        count: Values per channel.
        total: Their sum (C,).
        squares: The sum of their squares (C,).
    """

    count: int
    total: np.ndarray
    squares: np.ndarray

    @classmethod
    def empty(cls, channels: int) -> ChannelSums:
        """The sums of no values."""
        return cls(0, np.zeros(channels), np.zeros(channels))

    @classmethod
    def of(cls, mean: Tensor, std: Tensor | None = None) -> ChannelSums:
        """The sums of latents or features.

        Args:
            mean: Raw latents (n, C, h, w), or features as (n, C, N), on any device.
            std: Of the latents' posteriors, on the CPU; gives the expected sums of samples drawn from these.
        """
        sums = cls.empty(mean.shape[1])
        for start in range(0, len(mean), _ROWS):
            rows = slice(start, start + _ROWS)
            wide = mean[rows].detach().cpu().double().flatten(2).numpy()
            squares = np.square(wide)
            if std is not None:
                squares += np.square(std[rows].double().flatten(2).numpy())
            # Summed within each sample first, then over samples: another batch size changes the last bits at most.
            part = cls(wide.shape[0] * wide.shape[2], wide.sum(2).sum(0), squares.sum(2).sum(0))
            sums = sums + part
        return sums

    def __add__(self, other: ChannelSums) -> ChannelSums:
        return ChannelSums(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> np.ndarray:
        """(C,) float64."""
        return self.total / self.count

    @property
    def variance(self) -> np.ndarray:
        """(C,) float64, of the population, without a floor."""
        return np.maximum(self.squares / self.count - np.square(self.mean), 0.0)

    def mean_std(self, relative_floor: float = 0.0) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of every channel, for a normalisation.

        A constant channel has no scale of its own, so no standard deviation is smaller than `FLOOR`.

        Args:
            relative_floor: Raises the floor to this fraction of the largest channel's standard deviation.
        """
        std = np.sqrt(self.variance)
        floor = max(FLOOR, relative_floor * float(std.max()))
        return tuple(self.mean.tolist()), tuple(np.maximum(std, floor).tolist())

    def to_dict(self) -> dict[str, object]:
        """The sums as JSON holds them."""
        return {"count": self.count, "total": self.total.tolist(), "squares": self.squares.tolist()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ChannelSums:
        """The sums that `to_dict` gave."""
        return cls(int(fields["count"]), np.array(fields["total"], float), np.array(fields["squares"], float))
