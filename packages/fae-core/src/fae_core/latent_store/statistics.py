"""Per-channel mean and standard deviation in one pass, the same whatever the batch size and the number of processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

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
        """The sums of latents.

        Args:
            mean: Raw latents (n, C, h, w).
            std: Of their posteriors (n, C, h, w); gives the expected sums of samples drawn from these.
        """
        sums = cls.empty(mean.shape[1])
        for start in range(0, len(mean), _ROWS):
            rows = slice(start, start + _ROWS)
            wide = mean[rows].double().flatten(2).numpy()
            squares = np.square(wide)
            if std is not None:
                squares += np.square(std[rows].double().flatten(2).numpy())
            # Summed within each sample first, then over samples, so that the batch size changes nothing.
            part = cls(wide.shape[0] * wide.shape[2], wide.sum(2).sum(0), squares.sum(2).sum(0))
            sums = sums + part
        return sums

    def __add__(self, other: ChannelSums) -> ChannelSums:
        return ChannelSums(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def mean_std(self, floor: float = 1e-6) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel, C numbers each.

        Args:
            floor: Smallest standard deviation, so that a constant channel can be divided by it.
        """
        mean = self.total / self.count
        variance = np.maximum(self.squares / self.count - np.square(mean), 0.0)
        return tuple(mean.tolist()), tuple(np.maximum(np.sqrt(variance), floor).tolist())

    def to_dict(self) -> dict[str, object]:
        """The sums as JSON holds them."""
        return {"count": self.count, "total": self.total.tolist(), "squares": self.squares.tolist()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ChannelSums:
        """The sums that `to_dict` gave."""
        return cls(int(fields["count"]), np.array(fields["total"], float), np.array(fields["squares"], float))
