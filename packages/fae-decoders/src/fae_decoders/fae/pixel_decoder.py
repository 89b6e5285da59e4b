"""Pixel decoder: features into an image (section 4.2; the numbers of appendix D).

    features (B, N, D) -> linear -> + position table -> depth x [LayerNorm, attention, LayerNorm, SwiGLU] -> pixels

A ViT whose tokens each become one patch of the image. With `tail_channels` they become patches of a map of that
many channels instead, and two 3x3 convolutions turn it into RGB. That is a departure from the paper, for small
budgets: a small ViT that has seen a few thousand batches shows its patches as flat blocks, and the convolutions
smooth over their borders.

Shape suffixes: B batch, N = h * w tokens (row-major), C width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fae_core.layers import swiglu_hidden
from fae_core.models.pretrained import PretrainedModel
from fae_core.spec import LatentSpec
from fae_decoders.fae.block import DecoderBlock, initialize, make_norm, run_blocks
from fae_decoders.fae.config import PixelDecoderConfig


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
        """A forward pass of random features, see PretrainedModel.

        Args:
            batch: How many images.
        """
        return self(self.dry_input(batch, self.position.shape[0], self.config.feature_dim))

    @property
    def last_layer(self) -> Tensor:
        """The last weight before the image; the adversarial term's adaptive weight compares gradients there."""
        return self.tail.to_rgb.weight if isinstance(self.tail, ConvolutionalTail) else self.proj_out.weight

    def forward(self, features: Tensor) -> Tensor:
        """Images (B, 3, H, W) of features (B, N, D), not clamped.

        Args:
            features: Normalised features (B, N, D), original or rebuilt.
        """
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
