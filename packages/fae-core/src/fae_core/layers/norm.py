"""RMSNorm as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fae_core import ops


class RMSNorm(nn.Module):
    """Root-mean-square norm.

    Args:
        dim: width of the model.
        eps: what is added to the mean square.
        affine: whether there is a learned weight, initially 1.
    """

    def __init__(self, dim: int, eps: float = 1e-6, affine: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) of (..., dim).

        Args:
            x: Tokens (..., dim); each is divided by its own root mean square.
        """
        return ops.rms_norm(x, self.weight, self.eps)
