"""Samplers: explicit time grids, ODE methods and SDE methods. They take a velocity function, not a model."""

from fae_diffusion.samplers.grids import sde_grid, time_grid
from fae_diffusion.samplers.ode import ADAPTIVE, METHODS, check_times, integrate
from fae_diffusion.samplers.sde import DIFFUSIONS, LAST_STEPS, diffusion_coefficient, integrate_sde

__all__ = [
    "ADAPTIVE",
    "DIFFUSIONS",
    "LAST_STEPS",
    "METHODS",
    "check_times",
    "diffusion_coefficient",
    "integrate",
    "integrate_sde",
    "sde_grid",
    "time_grid",
]
