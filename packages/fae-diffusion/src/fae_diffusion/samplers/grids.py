"""Time grids: descending times from noise (1) to data (0). `steps` counts intervals, so a grid has steps + 1 points.

SiT and LightningDiT count points: their num_steps = 250 is 249 intervals here; REPA's 250 are 250 intervals.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_diffusion.transport import shift_time


def time_grid(steps: int, *, shift: float = 1.0, start: float = 1.0, end: float = 0.0) -> Tensor:
    """steps + 1 times from `start` to `end`, equally spaced before the shift (see transport). float64, on the CPU."""
    if steps < 1:
        raise FAEError(f"a time grid needs at least one step, not {steps}")
    if not 0 <= end < start <= 1:
        raise FAEError(f"a time grid descends within [0, 1], not from {start} to {end}")
    bounds = shift_time(1 / shift, torch.tensor([start, end], dtype=torch.float64)).tolist()
    times = shift_time(shift, torch.linspace(*bounds, steps + 1, dtype=torch.float64))
    times[0], times[-1] = start, end
    return times


def sde_grid(
    steps: int, *, last_step_size: float = 0.04, shift: float = 1.0, start: float = 1.0, end: float = 0.0
) -> Tensor:
    """A grid whose last interval, from `end + last_step_size`, is one longer step without noise. steps + 1 times."""
    if last_step_size == 0:
        return time_grid(steps, shift=shift, start=start, end=end)
    if steps < 2:
        raise FAEError("an SDE grid with a last step needs at least two steps")
    noisy = time_grid(steps - 1, shift=shift, start=start, end=end + last_step_size)
    return torch.cat([noisy, noisy.new_tensor([end])])
