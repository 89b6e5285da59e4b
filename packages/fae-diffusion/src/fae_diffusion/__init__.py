"""fae-diffusion: SiT, LightningDiT and MMDiT on FAE latents. torch is imported only when a name needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names
from fae_diffusion._version import __version__

if TYPE_CHECKING:
    from fae_diffusion.guidance import Guidance as Guidance
    from fae_diffusion.models import LightningDiT as LightningDiT
    from fae_diffusion.models import LightningDiTConfig as LightningDiTConfig
    from fae_diffusion.models import MMDiT as MMDiT
    from fae_diffusion.models import MMDiTConfig as MMDiTConfig
    from fae_diffusion.models import Sampling as Sampling
    from fae_diffusion.models import SiT as SiT
    from fae_diffusion.models import SiTConfig as SiTConfig
    from fae_diffusion.samplers import integrate as integrate
    from fae_diffusion.samplers import integrate_sde as integrate_sde
    from fae_diffusion.samplers import sde_grid as sde_grid
    from fae_diffusion.samplers import time_grid as time_grid
    from fae_diffusion.text.condition import TextCondition as TextCondition
    from fae_diffusion.transport import Transport as Transport
    from fae_diffusion.transport import shift_time as shift_time

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names, "__version__"]
