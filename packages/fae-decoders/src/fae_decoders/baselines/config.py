"""What can be chosen about a ConvVAE. torch is not imported, so that settings are checked at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from fae_core.config import Config

Side = Annotated[int, Field(gt=0, le=65536)]  # as LatentSpec has it


@dataclass(frozen=True)
class ConvSizes:
    """Sizes of one half, encoder or decoder.

    Args:
        widths: Channels of each level, finest first.
        stem: Channels behind the encoder's first convolution.
        channels: C of the latents.
        inner: Channels of the maps that the 1x1 convolution turns into latents, and back.
        blocks: Residual blocks per level of the encoder; the decoder has one more.
        groups: Of every GroupNorm.
        attention: Whether the middle has an attention block.
        level_attention: Levels, 0 the finest, whose residual blocks are each followed by attention.
        latent_conv: Whether there is a 1x1 convolution next to the latents.
    """

    widths: tuple[int, ...]
    stem: int
    channels: int
    inner: int
    blocks: int
    groups: int
    attention: bool
    level_attention: tuple[int, ...]
    latent_conv: bool


class ConvVAEConfig(Config):
    """Sizes of a ConvVAE.

    Args:
        image_size: Of the images in pixels, one number or (height, width); multiples of the stride.
        channels: C of the latents.
        widths: Channels of each level, finest first; the stride is 2^(levels - 1).
        blocks: Residual blocks per level of the encoder, one fewer than in the decoder.
        norm_groups: Of every GroupNorm.
        attention: One attention block in the middle.
        latent_conv: 1x1 convolutions on both sides of the latent (SD's quant_conv and post_quant_conv; SD3 and Flux
            have none).
        stem: Channels behind the encoder's first convolution; None: those of the finest level.
        inner_channels: Channels on the other side of the 1x1 convolutions (LDM's z_channels); None: as the latents.
        encoder_attention: Levels of the encoder, 0 the finest, whose residual blocks are each followed by attention.
        decoder_attention: The same of the decoder.
    """

    has_features: ClassVar[bool] = False  # read before the model is loaded
    stage_configs: ClassVar[Mapping[str, str]] = {"vae": "fae_decoders.stages.config:VAEConfig"}

    image_size: Side | tuple[Side, Side]
    channels: int = Field(gt=0, le=65536)
    widths: tuple[int, ...] = Field(default=(128, 256, 512, 512), min_length=1)
    blocks: int = Field(default=2, gt=0)
    norm_groups: int = Field(default=32, gt=0)
    attention: bool = True
    latent_conv: bool = True
    stem: int | None = Field(default=None, gt=0)
    inner_channels: int | None = Field(default=None, gt=0)
    encoder_attention: tuple[int, ...] = ()
    decoder_attention: tuple[int, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def stride(self) -> int:
        """Pixels per latent position, in each direction."""
        return 2 ** (len(self.widths) - 1)

    def sizes(self, level_attention: tuple[int, ...]) -> ConvSizes:
        """Sizes of the half with attention at these levels.

        Args:
            level_attention: Numbers of the levels, 0 the one at the image's own size.
        """
        return ConvSizes(
            widths=self.widths,
            stem=self.stem or self.widths[0],
            channels=self.channels,
            inner=self.inner_channels or self.channels,
            blocks=self.blocks,
            groups=self.norm_groups,
            attention=self.attention,
            level_attention=level_attention,
            latent_conv=self.latent_conv,
        )

    @model_validator(mode="after")
    def _fits(self) -> ConvVAEConfig:
        if any(side < 1 or side % self.stride for side in self.image_shape):
            raise ValueError(f"images of {self.image_shape} pixels are not a multiple of the stride {self.stride}")
        if any(width < 1 or width % self.norm_groups for width in (*self.widths, self.stem or self.widths[0])):
            raise ValueError(f"widths {self.widths} are not multiples of norm_groups {self.norm_groups}")
        if any(not 0 <= level < len(self.widths) for level in (*self.encoder_attention, *self.decoder_attention)):
            raise ValueError(f"attention is at levels 0 to {len(self.widths) - 1}")
        if self.inner_channels not in (None, self.channels) and not self.latent_conv:
            raise ValueError("inner_channels differ from the latents' only with latent_conv")
        return self
