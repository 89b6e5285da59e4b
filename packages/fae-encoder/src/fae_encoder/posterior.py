"""The distribution over latents that an encoder gives for an image: a diagonal Gaussian, not yet normalised."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fae_core.random import SlotRandom

# std between 3e-7 and 2.2e4: beyond them exp(logvar) leaves fp32's useful range.
LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class Posterior:
    """N(mean, exp(logvar)) per element; mean, logvar: (B, C, h, w), raw (before the spec's normalisation), fp32."""

    mean: Tensor
    logvar: Tensor

    @cached_property
    def std(self) -> Tensor:
        return torch.exp(0.5 * self.logvar)

    def mode(self) -> Tensor:
        """The most likely latent (B, C, h, w)."""
        return self.mean

    def sample(self, random: SlotRandom | None = None) -> Tensor:
        """One draw (B, C, h, w), differentiable in mean and logvar; without `random` from torch's global generator."""
        if random is None:
            noise = torch.randn_like(self.mean)
        else:
            noise = random.normal(self.mean.shape[1:], "posterior", self.mean.device)
        return self.mean + self.std * noise

    def select(self, rows: slice) -> Posterior:
        """The posterior of some of the batch."""
        return Posterior(self.mean[rows], self.logvar[rows])

    def kl(self) -> Tensor:
        """KL(posterior || N(0, 1)) per element in nats, (B, C, h, w): `.mean()` or `.sum((1, 2, 3))` as a loss wants it."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar)
