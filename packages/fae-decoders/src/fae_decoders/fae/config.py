"""What can be chosen about the decoders of an FAE. torch is not imported, so that settings are checked at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from fae_core.config import Config
from fae_core.errors import FAEError
from fae_decoders.fae.feature_space import FeatureSpace

if TYPE_CHECKING:
    from torch import Tensor


class FeatureDecoderConfig(Config):
    """Sizes of a FeatureDecoder.

    Args:
        feature_dim: D of the features.
        width: Of the transformer.
        depth: Number of its blocks.
        heads: Of its attention; a multiple of 4 channels each.
        mlp_hidden: SwiGLU's hidden width; by default 2/3 * 4 * width rounded up to a multiple of 8.
        final_norm: An RMSNorm at the end (the paper's parameter count is met without it).
        features: The space that it was trained to reconstruct; None before training.
    """

    stage_configs: ClassVar[Mapping[str, str]] = {"autoencoder": "fae_decoders.stages.config:AutoencoderConfig"}

    feature_dim: int = Field(gt=0)
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_hidden: int | None = Field(default=None, gt=0)
    final_norm: bool = False
    features: FeatureSpace | None = None

    @model_validator(mode="after")
    def _fits(self) -> FeatureDecoderConfig:
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(
                f"width {self.width} over {self.heads} heads is not a multiple of 4 per head, as RoPE needs"
            )
        return self


class AnyPixelDecoderConfig(Config):
    """What every kind of pixel decoder has.

    Args:
        feature_dim: D of the features.
        grid: (h, w) of the features.
        image_size: Of the images in pixels, one number or (height, width); a multiple of the grid.
        width: Of the transformer.
        depth: Number of its blocks.
        heads: Of its attention.
        features: The space that it was trained on; None before training.
        noise_sigma: Standard deviation of the noise that its features carried in training; None where it was not
            trained on noisy features or that is not known.
    """

    feature_dim: int = Field(gt=0)
    grid: tuple[int, int]
    image_size: int | tuple[int, int]
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    features: FeatureSpace | None = None
    noise_sigma: float | None = None

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def patch(self) -> tuple[int, int]:
        """(height, width) in pixels of the patch that one token becomes."""
        return self.image_shape[0] // self.grid[0], self.image_shape[1] // self.grid[1]

    def check(self, features: Tensor) -> None:
        """Check that these are a batch of its features.

        Raises:
            FAEError: They are not (B, h * w, feature_dim).
        """
        wanted = (self.grid[0] * self.grid[1], self.feature_dim)
        if features.ndim != 3 or tuple(features.shape[1:]) != wanted:
            raise FAEError(f"expected features of shape (B, {wanted[0]}, {wanted[1]}), got {tuple(features.shape)}")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        if min(self.grid) < 1 or any(
            size < 1 or size % cells for size, cells in zip(self.image_shape, self.grid, strict=True)
        ):
            raise ValueError(f"images of {self.image_shape} pixels are not a multiple of the grid {self.grid}")
        if self.features is not None and (self.features.dim, self.features.grid) != (self.feature_dim, self.grid):
            raise ValueError(
                f"features: {self.features.dim} on {self.features.grid} are not {self.feature_dim} on {self.grid}"
            )
        return self


class PixelDecoderConfig(AnyPixelDecoderConfig):
    """Sizes of a PixelDecoder, beside those of every pixel decoder.

    Args:
        mlp_hidden: SwiGLU's hidden width; by default 2/3 * 4 * width rounded up to a multiple of 8.
        final_norm: A LayerNorm at the end (the paper's parameter count is met without it).
        tail_channels: Of the map before the convolutional tail; 0 for the paper's plain projection.
    """

    stage_configs: ClassVar[Mapping[str, str]] = {
        "noise": "fae_decoders.stages.config:PixelNoiseConfig",
        "finetune": "fae_decoders.stages.config:PixelFinetuneConfig",
    }

    mlp_hidden: int | None = Field(default=None, gt=0)
    final_norm: bool = False
    tail_channels: int = Field(default=0, ge=0)


class RAEDecoderConfig(AnyPixelDecoderConfig):
    """Sizes of a RAEDecoder, beside those of every pixel decoder.

    Args:
        mlp_hidden: Hidden width of the GELU MLP.
        norm_eps: Of every LayerNorm.
        pixel_mean: Per colour, of the scale of the network's output, which is the backbone's own input scale.
        pixel_std: As `pixel_mean`.
    """

    mlp_hidden: int = Field(gt=0)
    norm_eps: float = Field(default=1e-12, gt=0)
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
