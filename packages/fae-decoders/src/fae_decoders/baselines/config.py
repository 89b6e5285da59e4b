"""What can be chosen about a ConvVAE. torch is not imported, so that settings are checked at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from fae_core.config import Config

Side = Annotated[int, Field(gt=0, le=65536)]  # as LatentSpec has it


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
    """

    stage_configs: ClassVar[Mapping[str, str]] = {"vae": "fae_decoders.stages.config:VAEConfig"}

    image_size: Side | tuple[Side, Side]
    channels: int = Field(gt=0, le=65536)
    widths: tuple[int, ...] = Field(default=(128, 256, 512, 512), min_length=1)
    blocks: int = Field(default=2, gt=0)
    norm_groups: int = Field(default=32, gt=0)
    attention: bool = True
    latent_conv: bool = True

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def stride(self) -> int:
        """Pixels per latent position, in each direction."""
        return 2 ** (len(self.widths) - 1)

    @model_validator(mode="after")
    def _fits(self) -> ConvVAEConfig:
        if any(side < 1 or side % self.stride for side in self.image_shape):
            raise ValueError(f"images of {self.image_shape} pixels are not a multiple of the stride {self.stride}")
        if any(width < 1 or width % self.norm_groups for width in self.widths):
            raise ValueError(f"widths {self.widths} are not multiples of norm_groups {self.norm_groups}")
        return self
