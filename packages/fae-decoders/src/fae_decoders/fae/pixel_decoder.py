"""Pixel decoder: features into an image (section 4.2; the numbers of appendix D).

    features (B, N, D) -> linear -> + position table -> depth x [LayerNorm, attention, LayerNorm, SwiGLU] -> pixels

A ViT whose tokens each become one patch of the image. With `tail_channels` they become patches of a map of that
many channels instead, and two 3x3 convolutions turn it into RGB. That is a departure from the paper, for small
budgets: a small ViT that has seen a few thousand batches shows its patches as flat blocks, and the convolutions
smooth over their borders.

Shape suffixes: B batch, N = h * w tokens (row-major), C width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn

from fae_core.config import Config
from fae_core.errors import FAEError
from fae_core.layers import swiglu_hidden
from fae_core.models.pretrained import PretrainedModel
from fae_core.spec import LatentSpec
from fae_decoders.fae.block import DecoderBlock, initialize, make_norm, run_blocks
from fae_decoders.fae.feature_space import FeatureSpace


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

    mlp_hidden: int | None = Field(default=None, gt=0)
    final_norm: bool = False
    tail_channels: int = Field(default=0, ge=0)


class PixelDecoder(PretrainedModel[PixelDecoderConfig]):
    """forward(features (B, N, D)) -> images (B, 3, H, W), roughly in [0, 1].

    They are not clamped, so that losses keep a gradient. The network's own range is [-1, 1]; x is returned as (x + 1)
    / 2.

    Args:
        config: The sizes.
        spec: Not used: a pixel decoder does not depend on the latents.

    Raises:
        FAEError: Features have another shape.
    """

    model_type = "pixel-decoder"
    config_class = PixelDecoderConfig
    stage_configs: ClassVar[Mapping[str, str]] = {
        "noise": "fae_decoders.stages:PixelNoiseConfig",
        "finetune": "fae_decoders.stages:PixelFinetuneConfig",
    }
    needs_spec = False
    pipeline_tag = "image-to-image"

    def __init__(self, config: PixelDecoderConfig, spec: LatentSpec | None = None) -> None:
        super().__init__(config, spec)
        hidden = config.mlp_hidden or swiglu_hidden(config.width)
        height, width = config.grid
        self.proj_in = nn.Linear(config.feature_dim, config.width)
        self.position = nn.Parameter(torch.empty(height * width, config.width))
        self.blocks = nn.ModuleList(
            DecoderBlock(config.width, config.heads, hidden, "layer") for _ in range(config.depth)
        )
        self.norm = make_norm("layer", config.width) if config.final_norm else nn.Identity()
        channels = config.tail_channels or 3
        self.proj_out = nn.Linear(config.width, channels * config.patch[0] * config.patch[1])
        self.tail = ConvolutionalTail(channels) if config.tail_channels else nn.Identity()
        self.gradient_checkpointing = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial weights from torch's global generator."""
        self.apply(initialize)
        nn.init.trunc_normal_(self.position, std=0.02)

    def dry_run(self, batch: int) -> Tensor:
        """A forward pass of random features, see PretrainedModel."""
        return self(self.dry_input(batch, self.position.shape[0], self.config.feature_dim))

    @property
    def last_layer(self) -> Tensor:
        """The last weight before the image; the adversarial term's adaptive weight compares gradients there."""
        return self.tail.to_rgb.weight if isinstance(self.tail, ConvolutionalTail) else self.proj_out.weight

    def forward(self, features: Tensor) -> Tensor:
        """Images (B, 3, H, W) of features (B, N, D), not clamped."""
        self.config.check(features)
        x_BNC = self.proj_in(features.to(self.position.dtype)) + self.position
        x_BNC = run_blocks(self.blocks, x_BNC, None, self.gradient_checkpointing and self.training)
        patches = self.proj_out(self.norm(x_BNC))
        (h, w), (ph, pw) = self.config.grid, self.config.patch
        maps = rearrange(patches, "b (h w) (c ph pw) -> b c (h ph) (w pw)", h=h, w=w, ph=ph, pw=pw)
        return (self.tail(maps) + 1) / 2


class ConvolutionalTail(nn.Module):
    """Two 3x3 convolutions, (B, channels, H, W) -> (B, 3, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.to_rgb = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, 3, H, W) of a map (B, channels, H, W)."""
        return self.to_rgb(F.silu(self.mix(F.silu(maps))))
