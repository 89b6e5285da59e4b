"""Any tokenizer as one whose latents can be stored."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fae_core import protocols
from fae_core.protocols import Tokenizer
from fae_core.spec import LatentSpec
from fae_encoder.posterior import LOGVAR_RANGE, Posterior


class PointEncoder(nn.Module):
    """A tokenizer with `spec` and `encode` alone; its latents are posteriors without variance.

    Args:
        tokenizer: A torch module.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        assert isinstance(tokenizer, nn.Module)
        self.tokenizer = tokenizer
        self.spec = tokenizer.spec

    @property
    def read_size(self) -> tuple[int, int]:
        """(height, width) at which to read images."""
        return protocols.read_size(self.tokenizer)

    def posterior(self, images: Tensor) -> Posterior:
        """The raw latents of images (B, 3, H, W) in [0, 1], as points."""
        mean = self.spec.denormalize(self.tokenizer.encode(images).float())
        return Posterior(mean, torch.full_like(mean, LOGVAR_RANGE[0]))

    def stamp(self) -> LatentSpec:
        """The spec as the tokenizer has it: only its own code knows what its fingerprint is made of."""
        return self.spec
