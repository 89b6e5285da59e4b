"""The networks and their configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names

if TYPE_CHECKING:
    from fae_diffusion.models.config import LightningDiTConfig as LightningDiTConfig
    from fae_diffusion.models.config import Sampling as Sampling
    from fae_diffusion.models.config import SiTConfig as SiTConfig
    from fae_diffusion.models.config import TransformerConfig as TransformerConfig
    from fae_diffusion.models.mmdit import MMDiT as MMDiT
    from fae_diffusion.models.mmdit_config import MMDiTConfig as MMDiTConfig
    from fae_diffusion.models.sit import LightningDiT as LightningDiT
    from fae_diffusion.models.sit import SiT as SiT

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names]
