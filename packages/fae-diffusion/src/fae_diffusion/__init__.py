"""fae-diffusion: SiT, LightningDiT and MMDiT on FAE latents. torch is imported only when a name needs it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
    from fae_diffusion.models import TextCondition as TextCondition
    from fae_diffusion.samplers import integrate as integrate
    from fae_diffusion.samplers import integrate_sde as integrate_sde
    from fae_diffusion.samplers import sde_grid as sde_grid
    from fae_diffusion.samplers import time_grid as time_grid
    from fae_diffusion.transport import Transport as Transport
    from fae_diffusion.transport import shift_time as shift_time

_HOMES = {
    "Guidance": "fae_diffusion.guidance",
    "LightningDiT": "fae_diffusion.models",
    "LightningDiTConfig": "fae_diffusion.models",
    "MMDiT": "fae_diffusion.models",
    "MMDiTConfig": "fae_diffusion.models",
    "Sampling": "fae_diffusion.models",
    "SiT": "fae_diffusion.models",
    "SiTConfig": "fae_diffusion.models",
    "TextCondition": "fae_diffusion.models",
    "integrate": "fae_diffusion.samplers",
    "integrate_sde": "fae_diffusion.samplers",
    "sde_grid": "fae_diffusion.samplers",
    "time_grid": "fae_diffusion.samplers",
    "Transport": "fae_diffusion.transport",
    "shift_time": "fae_diffusion.transport",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fae_diffusion' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
