"""The networks and their configurations."""

from fae_diffusion.models.config import LightningDiTConfig, Sampling, SiTConfig, TransformerConfig
from fae_diffusion.models.mmdit import MMDiT
from fae_diffusion.models.mmdit_config import MMDiTConfig
from fae_diffusion.models.sit import LightningDiT, SiT
from fae_diffusion.text.condition import TextCondition
from fae_diffusion.text.config import TextEncoderConfig

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
