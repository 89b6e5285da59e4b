"""FeatureNorm: backbone features to the scale that all packages call "features"."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.layers import Fp32Buffers


class FeatureNorm(Fp32Buffers):
    """(x - mean) / std per channel on (..., D), with fixed statistics; 0 and 1 until `set_statistics` or `measure`.

    The paper's backbones end in a LayerNorm and keep the identity. Convolutional features are standardised, because
    their channels have very different scales and a plain L2 loss would depend on only some of them. Statistics stay in
    fp32: a std rounded to bf16 would change every feature.

    Args:
        dim: D, the number of channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.is_identity = True  # then `forward` returns its input itself, without a copy
        self.register_tables(persistent=True)

    def tables(self) -> dict[str, Tensor]:
        """The initial `mean` and `std`, (D,) each."""
        return {"mean": torch.zeros(self.dim), "std": torch.ones(self.dim)}

    def forward(self, x: Tensor) -> Tensor:
        """Normalised features (..., D), in the dtype of `x`."""
        return x if self.is_identity else ((x.float() - self.mean) / self.std).to(x.dtype)

    def inverse(self, x: Tensor) -> Tensor:
        """Normalised features back to the backbone's own scale."""
        return x if self.is_identity else (x.float() * self.std + self.mean).to(x.dtype)

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set the statistics.

        Args:
            mean: (D,).
            std: (D,), positive.

        Raises:
            FAEError: unless both are D finite numbers and std is positive.
        """
        mean, std = (torch.as_tensor(v, dtype=torch.float32) for v in (mean, std))
        if mean.shape != (self.dim,) or std.shape != (self.dim,):
            raise FAEError(
                f"feature statistics need {self.dim} numbers each, got {tuple(mean.shape)} and {tuple(std.shape)}"
            )
        if not (mean.isfinite().all() and std.isfinite().all() and torch.all(std > 0)):
            raise FAEError("feature statistics must be finite, and std positive")
        self.mean.copy_(mean)
        self.std.copy_(std)
        self._note_identity()

    def measure(self, batches: Iterable[Tensor], floor: float = 1e-6) -> None:
        """Set mean and std from features, in one pass with float64 sums.

        Args:
            batches: raw backbone features, (B, N, D) each.
            floor: smallest std, for channels that are constant.

        Raises:
            FAEError: if there are no features.
        """
        count = 0
        total, squares = torch.zeros(2, self.dim, dtype=torch.float64)
        for features_BND in batches:
            wide = features_BND.detach().reshape(-1, self.dim).to("cpu", torch.float64)
            count += wide.shape[0]
            total += wide.sum(0)
            squares += wide.square().sum(0)
        if count == 0:
            raise FAEError("feature statistics need at least one batch of images")
        mean = total / count
        self.set_statistics(mean, (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=floor))

    def _note_identity(self) -> None:
        self.is_identity = not self.mean.is_meta and bool(torch.all(self.mean == 0) and torch.all(self.std == 1))

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        self._note_identity()
