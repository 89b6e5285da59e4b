"""Time grids: descending times from noise (1) to data (0). `steps` counts intervals, so a grid has steps + 1 points.

SiT and LightningDiT count points: their num_steps = 250 is 249 intervals here. REPA's 250 are 250 intervals.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_diffusion.transport import shift_time, time_of


def time_grid(steps: int, *, shift: float = 1.0, start: float = 1.0, end: float = 0.0) -> Tensor:
    """A time grid, equally spaced before the shift.

    Args:
        steps: intervals, at least 1.
        shift: see `transport`; above 1 spends more steps at high noise.
        start: the first time.
        end: the last time, 0 <= end < start <= 1.

    Returns:
        steps + 1 descending times, float64, on the CPU.

    Raises:
        FAEError: for no step, or times that do not descend within [0, 1].
    """
    if steps < 1:
        raise FAEError(f"a time grid needs at least one step, not {steps}")
    if not 0 <= end < start <= 1:
        raise FAEError(f"a time grid descends within [0, 1], not from {start} to {end}")
    first, last = shift_time(1 / shift, time_of(start)).item(), shift_time(1 / shift, time_of(end)).item()
    times = shift_time(shift, torch.linspace(first, last, steps + 1, dtype=torch.float64, device="cpu"))
    times[0], times[-1] = start, end
    return times


def sde_grid(
    steps: int, *, last_step_size: float = 0.04, shift: float = 1.0, start: float = 1.0, end: float = 0.0
) -> Tensor:
    """A time grid whose last interval is one longer step: that of an SDE without noise, or SD3's to 0.

    Args:
        steps: intervals, the last one included; at least 2.
        last_step_size: length of the last interval; 0: `time_grid`.
        shift: of the other intervals, as in `time_grid`.
        start: the first time.
        end: the last time.

    Returns:
        steps + 1 descending times, float64, on the CPU.

    Raises:
        FAEError: for too few steps, or times that do not descend within [0, 1].
    """
    if last_step_size == 0:
        return time_grid(steps, shift=shift, start=start, end=end)
    if steps < 2:
        raise FAEError("a time grid with a last step of its own length needs at least two steps")
    noisy = time_grid(steps - 1, shift=shift, start=start, end=end + last_step_size)
    return torch.cat([noisy, noisy.new_tensor([end])])
