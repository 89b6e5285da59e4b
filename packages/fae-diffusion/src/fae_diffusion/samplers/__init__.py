"""Samplers: explicit time grids, ODE methods and SDE methods. They take a velocity function, not a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names

if TYPE_CHECKING:
    from fae_diffusion.samplers.grids import sde_grid as sde_grid
    from fae_diffusion.samplers.grids import time_grid as time_grid
    from fae_diffusion.samplers.ode import ADAPTIVE as ADAPTIVE
    from fae_diffusion.samplers.ode import METHODS as METHODS
    from fae_diffusion.samplers.ode import check_times as check_times
    from fae_diffusion.samplers.ode import integrate as integrate
    from fae_diffusion.samplers.sde import DIFFUSIONS as DIFFUSIONS
    from fae_diffusion.samplers.sde import LAST_STEPS as LAST_STEPS
    from fae_diffusion.samplers.sde import diffusion_coefficient as diffusion_coefficient
    from fae_diffusion.samplers.sde import integrate_sde as integrate_sde

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names]
