"""The convolutional encoder and decoder of a KL autoencoder (Rombach et al., 2022, appendix E), as in SD's VAEs.

    image -> conv -> levels of residual blocks, each but the last halving the grid -> middle -> norm, SiLU,
    conv -> 2C maps z -> conv -> middle -> levels of residual blocks, each but the last doubling the grid ->
    norm, SiLU, conv -> image

The middle is block, attention, block. At chosen levels every residual block is followed by attention, too (VA-VAE).
Numbers agree with diffusers' AutoencoderKL and with LDM's to rounding (tests).

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fae_core.layers import SelfAttention
from fae_decoders.baselines.config import ConvSizes

_EPS = 1e-6


class ResidualBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), with a 1x1 convolution on x where the width changes.

    Args:
        inside: Channels of the input.
        outside: Channels of the output.
        groups: Of both GroupNorms.
    """

    def __init__(self, inside: int, outside: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inside, eps=_EPS)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outside, eps=_EPS)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.shortcut = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h_BCHW = self.conv1(F.silu(self.norm1(x_BCHW)))
        return self.shortcut(x_BCHW) + self.conv2(F.silu(self.norm2(h_BCHW)))


class SpatialAttention(nn.Module):
    """x + attention(norm(x)) with one head over all positions.

    Args:
        width: Channels.
        groups: Of the GroupNorm.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=_EPS)
        self.attention = SelfAttention(width, heads=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        tokens_BNC = self.norm(x_BCHW).flatten(2).transpose(1, 2)
        return x_BCHW + self.attention(tokens_BNC).transpose(1, 2).unflatten(2, x_BCHW.shape[-2:])


class Downsample(nn.Module):
    """Halves the grid: a strided 3x3 convolution, padded at the bottom and the right only, as SD's is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.conv(F.pad(x_BCHW, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles the grid: nearest neighbours, then a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.conv(F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks at one resolution, then `resample`.

    Args:
        inside: Channels of the input.
        outside: Channels of the output.
        blocks: How many residual blocks.
        groups: Of every GroupNorm.
        attention: Whether each residual block is followed by attention.
        resample: Halves or doubles the grid; the identity at the last level.
    """

    def __init__(
        self, inside: int, outside: int, blocks: int, groups: int, attention: bool, resample: nn.Module
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(inside if i == 0 else outside, outside, groups) for i in range(blocks)
        )
        self.attentions = nn.ModuleList(SpatialAttention(outside, groups) for _ in range(blocks if attention else 0))
        self.resample = resample

    def forward(self, x_BCHW: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x_BCHW = block(x_BCHW)
            if self.attentions:
                x_BCHW = self.attentions[i](x_BCHW)
        return self.resample(x_BCHW)


class Middle(nn.Sequential):
    """Block, attention, block at the coarsest resolution.

    Args:
        width: Channels.
        groups: Of every GroupNorm.
        attention: Without it there are the two blocks alone.
    """

    def __init__(self, width: int, groups: int, attention: bool) -> None:
        between = SpatialAttention(width, groups) if attention else nn.Identity()
        super().__init__(ResidualBlock(width, width, groups), between, ResidualBlock(width, width, groups))


class ConvEncoder(nn.Module):
    """forward(images (B, 3, H, W) in [-1, 1]) -> mean and log-variance (B, C, h, w), h = H / 2^(levels - 1).

    Args:
        sizes: See ConvSizes.
    """

    def __init__(self, sizes: ConvSizes) -> None:
        super().__init__()
        widths, groups = sizes.widths, sizes.groups
        last, before = len(widths) - 1, (sizes.stem, *widths)
        self.conv_in = nn.Conv2d(3, sizes.stem, 3, padding=1)
        self.levels = nn.ModuleList(
            Level(
                before[i],
                width,
                sizes.blocks,
                groups,
                i in sizes.level_attention,
                Downsample(width) if i < last else nn.Identity(),
            )
            for i, width in enumerate(widths)
        )
        self.middle = Middle(widths[-1], groups, sizes.attention)
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * sizes.inner, 3, padding=1)
        self.latent_conv = nn.Conv2d(2 * sizes.inner, 2 * sizes.channels, 1) if sizes.latent_conv else nn.Identity()
        self.gradient_checkpointing = False

    @property
    def blocks(self) -> list[nn.Module]:
        """In the order of computation: what training compiles, shards and recomputes one by one."""
        return [*self.levels, self.middle]

    @property
    def last_layer(self) -> Tensor:
        """The last weight before the latents; the alignment's adaptive weight compares gradients there."""
        return self.conv_out.weight

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, C, h, w) of images (B, 3, H, W) in [-1, 1]."""
        x_BCHW = self.conv_in(images.contiguous(memory_format=torch.channels_last))
        x_BCHW = _run(self.blocks, x_BCHW, self.gradient_checkpointing and self.training)
        mean, logvar = self.latent_conv(self.conv_out(F.silu(self.norm_out(x_BCHW)))).chunk(2, dim=1)
        return mean, logvar


class ConvDecoder(nn.Module):
    """forward(latents (B, C, h, w), not normalised) -> images (B, 3, H, W), roughly in [-1, 1].

    It mirrors ConvEncoder, with one more block at every level.

    Args:
        sizes: See ConvSizes.
    """

    def __init__(self, sizes: ConvSizes) -> None:
        super().__init__()
        rising, groups = sizes.widths[::-1], sizes.groups
        last, before = len(rising) - 1, (rising[0], *rising)
        self.latent_conv = nn.Conv2d(sizes.channels, sizes.inner, 1) if sizes.latent_conv else nn.Identity()
        self.conv_in = nn.Conv2d(sizes.inner, rising[0], 3, padding=1)
        self.middle = Middle(rising[0], groups, sizes.attention)
        self.levels = nn.ModuleList(
            Level(
                before[i],
                width,
                sizes.blocks + 1,
                groups,
                last - i in sizes.level_attention,
                Upsample(width) if i < last else nn.Identity(),
            )
            for i, width in enumerate(rising)
        )
        self.norm_out = nn.GroupNorm(groups, rising[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(rising[-1], 3, 3, padding=1)
        self.gradient_checkpointing = False

    @property
    def blocks(self) -> list[nn.Module]:
        """In the order of computation, as ConvEncoder's."""
        return [self.middle, *self.levels]

    @property
    def last_layer(self) -> Tensor:
        """The last weight before the image; the adversarial term's adaptive weight compares gradients there."""
        return self.conv_out.weight

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, 3, H, W) of latents (B, C, h, w), not normalised."""
        x_BCHW = self.conv_in(self.latent_conv(z.contiguous(memory_format=torch.channels_last)))
        x_BCHW = _run(self.blocks, x_BCHW, self.gradient_checkpointing and self.training)
        return self.conv_out(F.silu(self.norm_out(x_BCHW)))


def _run(parts: Sequence[nn.Module], x_BCHW: Tensor, recompute: bool) -> Tensor:
    """Every part in turn; `recompute` keeps only their inputs for the backward pass (gradient checkpointing)."""
    for part in parts:
        if recompute and torch.is_grad_enabled():
            x_BCHW = checkpoint(part, x_BCHW, use_reentrant=False)
        else:
            x_BCHW = part(x_BCHW)
    return x_BCHW
