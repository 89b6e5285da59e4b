"""The networks and their configurations."""

from fae_diffusion.models.classes import LightningDiT, SiT
from fae_diffusion.models.config import LightningDiTConfig, Sampling, SiTConfig, TransformerConfig
from fae_diffusion.models.mmdit import MMDiT
from fae_diffusion.models.mmdit_config import MMDiTConfig, TextEncoderConfig
from fae_diffusion.models.text_condition import TextCondition

__all__ = [
    "LightningDiT",
    "LightningDiTConfig",
    "MMDiT",
    "MMDiTConfig",
    "Sampling",
    "SiT",
    "SiTConfig",
    "TextCondition",
    "TextEncoderConfig",
    "TransformerConfig",
]
