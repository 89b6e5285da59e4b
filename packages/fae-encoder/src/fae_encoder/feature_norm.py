"""FeatureNorm: backbone features to the scale that all packages call "features"."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.latent_store.statistics import ChannelSums
from fae_core.layers import Fp32Buffers


class FeatureNorm(Fp32Buffers):
    """(x - mean) / std per channel on (..., D), with fixed statistics; 0 and 1 until `set_statistics` or `standardize`.

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
        self.register_tables(persistent=True)

    def tables(self) -> dict[str, Tensor]:
        """The initial `mean` and `std`, (D,) each."""
        dtype = torch.float32
        return {"mean": torch.zeros(self.dim, dtype=dtype), "std": torch.ones(self.dim, dtype=dtype)}

    @property
    def is_identity(self) -> bool:
        """Whether the statistics are 0 and 1; True on the meta device, where nothing is known of them."""
        return self.mean.is_meta or bool(torch.all(self.mean == 0) and torch.all(self.std == 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised features (..., D), in the dtype of `x`; computed in fp32, or in fp64 where `x` is.

        Statistics of 0 and 1 change no bit, so that nobody has to know whether they are.

        Args:
            x: Features (..., D) in the backbone's own scale.
        """
        return (x - self.mean).div_(self.std).to(x.dtype)

    def inverse(self, x: Tensor) -> Tensor:
        """Normalised features back to the backbone's own scale.

        Args:
            x: Normalised features (..., D).
        """
        return (x * self.std).add_(self.mean).to(x.dtype)

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

    def standardize(self, sums: ChannelSums) -> None:
        """Set mean and std to those of raw features with these sums.

        A channel that hardly varies carries nothing, and dividing by its tiny std would only enlarge rounding errors:
        no std is smaller than 1e-4 of the largest, or than 1e-6.

        Args:
            sums: of raw backbone features.

        Raises:
            FAEError: if there are no features.
        """
        if sums.count == 0:
            raise FAEError("feature statistics need at least one batch of images")
        mean, std = sums.mean_std(relative_floor=1e-4)
        self.set_statistics(torch.tensor(mean), torch.tensor(std))

    def measure(self, batches: Iterable[Tensor]) -> None:
        """`standardize` by features, in one pass.

        Args:
            batches: raw backbone features, (B, N, D) each.

        Raises:
            FAEError: if there are no features.
        """
        sums = ChannelSums.empty(self.dim)
        for features_BND in batches:
            sums = sums + ChannelSums.of(features_BND.transpose(1, 2))
        self.standardize(sums)
