"""Per-channel statistics of a stream, the same (to 1e-12) however it is cut into batches."""

from __future__ import annotations

import torch
from torch import Tensor


class ChannelStatistics:
    """Running mean and variance in float64, merged batch by batch (Chan, Golub and LeVeque, 1979)."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self._mean = torch.zeros(channels, dtype=torch.float64)
        self._squares = torch.zeros(channels, dtype=torch.float64)  # of the distances from the mean

    def add(self, values: Tensor) -> None:
        """values: (..., channels)."""
        values = values.detach().cpu().double().reshape(-1, len(self._mean))
        count = len(values)
        if count == 0:
            return
        mean = values.mean(0)
        total = self.count + count
        shift = mean - self._mean
        self._squares += (values - mean).square().sum(0) + shift.square() * (self.count * count / total)
        self._mean += shift * (count / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """(channels,) float64."""
        return self._mean.clone()

    @property
    def std(self) -> Tensor:
        """(channels,) float64, of the population."""
        return (self._squares / max(1, self.count)).sqrt()

    @property
    def rms(self) -> float:
        """Root of the mean square over all channels."""
        return float((self._squares / max(1, self.count) + self._mean.square()).mean().sqrt())
