"""The networks and their configurations."""

from fae_diffusion.models.classes import LightningDiT, SiT
from fae_diffusion.models.config import LightningDiTConfig, Sampling, SiTConfig, TransformerConfig

__all__ = ["LightningDiT", "LightningDiTConfig", "Sampling", "SiT", "SiTConfig", "TransformerConfig"]
