"""Posterior: the distribution over latents that an encoder returns for an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fae_core.display import html_table
from fae_core.errors import FAEError
from fae_core.random import SlotRandom

# std between 3e-7 and 2.2e4: beyond them exp(logvar) leaves fp32's useful range.
LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian N(mean, exp(logvar)) over raw latents, before the spec's normalisation.

    Attributes:
        mean: (B, C, h, w), fp32.
        logvar: (B, C, h, w), fp32.
    """

    mean: Tensor
    logvar: Tensor

    def __repr__(self) -> str:
        return f"Posterior({' x '.join(map(str, self.mean.shape))}, {self.mean.dtype} on {self.mean.device})"

    def _repr_html_(self) -> str:
        facts: dict[str, object] = {"raw latents": " x ".join(map(str, self.mean.shape)), "device": self.mean.device}
        if not self.mean.is_meta and self.mean.numel():
            for name, values in (("mean", self.mean.detach()), ("std", self.std.detach())):
                facts[name] = f"from {values.min().item():.4g} to {values.max().item():.4g}"
        return html_table("Posterior", facts)

    @property
    def std(self) -> Tensor:
        """The standard deviation exp(logvar / 2), (B, C, h, w)."""
        return torch.exp(0.5 * self.logvar)

    def mode(self) -> Tensor:
        """The most likely latent (B, C, h, w)."""
        return self.mean

    def sample(self, random: SlotRandom | None = None) -> Tensor:
        """One sample, differentiable in mean and logvar.

        Args:
            random: source of the noise (stream "posterior"), B slots; None = torch's global generator.

        Returns:
            (B, C, h, w).

        Raises:
            FAEError: for another number of slots than images.
        """
        if random is None:
            noise = torch.randn_like(self.mean)
        elif len(random) != len(self.mean):  # one slot would give all images the same noise
            raise FAEError(f"{len(self.mean)} images for {len(random)} random slots; give one slot for each image")
        else:
            noise = random.normal(self.mean.shape[1:], "posterior", self.mean.device)
        return self.mean + self.std * noise

    def select(self, rows: slice) -> Posterior:
        """The posterior of some rows of the batch.

        Args:
            rows: Of the batch.
        """
        return Posterior(self.mean[rows], self.logvar[rows])

    def kl(self) -> Tensor:
        """KL(posterior || N(0, 1)) per element in nats, (B, C, h, w); losses use its mean or a sum."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar)
