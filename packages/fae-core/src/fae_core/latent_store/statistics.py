"""Per-channel mean and standard deviation in one pass, the same whatever the batch size and the number of processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

_ROWS = 64  # samples widened to float64 at a time


@dataclass(frozen=True)
class ChannelSums:
    """float64 sums over values of each channel: `total` and `squares` (C,), `count` values per channel.

    They depend on the samples of a shard and their order alone; shards are added in their order.
    """

    count: int
    total: np.ndarray
    squares: np.ndarray

    @classmethod
    def empty(cls, channels: int) -> ChannelSums:
        return cls(0, np.zeros(channels), np.zeros(channels))

    @classmethod
    def of(cls, mean: Tensor, std: Tensor | None = None) -> ChannelSums:
        """Sums of latents (n, C, h, w) as stored; with `std`, moments of samples drawn from the posterior."""
        sums = cls.empty(mean.shape[1])
        for start in range(0, len(mean), _ROWS):
            rows = slice(start, start + _ROWS)
            wide = mean[rows].double().flatten(2).numpy()
            squares = np.square(wide)
            if std is not None:
                squares += np.square(std[rows].double().flatten(2).numpy())
            # First within each sample, then over samples: no order but these two.
            part = cls(wide.shape[0] * wide.shape[2], wide.sum(2).sum(0), squares.sum(2).sum(0))
            sums = sums + part
        return sums

    def __add__(self, other: ChannelSums) -> ChannelSums:
        return ChannelSums(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def mean_std(self, floor: float = 1e-6) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel; `floor` keeps a channel that never moves divisible."""
        mean = self.total / self.count
        variance = np.maximum(self.squares / self.count - np.square(mean), 0.0)
        return tuple(mean.tolist()), tuple(np.maximum(np.sqrt(variance), floor).tolist())

    def to_dict(self) -> dict[str, object]:
        return {"count": self.count, "total": self.total.tolist(), "squares": self.squares.tolist()}

    @classmethod
    def from_dict(cls, fields: dict) -> ChannelSums:
        return cls(int(fields["count"]), np.array(fields["total"], float), np.array(fields["squares"], float))
