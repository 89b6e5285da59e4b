"""From noise to data as the settings of sampling say: which times, which sampler, who watches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.protocols import Observer, SamplingStep
from fae_core.random import SlotRandom
from fae_diffusion.guided_velocity import GuidedVelocity
from fae_diffusion.samplers import ADAPTIVE, check_times, integrate, integrate_sde, sde_grid
from fae_diffusion.samplers.config import Sampling
from fae_diffusion.samplers.ode import Velocity
from fae_diffusion.transport import PathName, Transport, shift_time, time_of

_Times = TypeVar("_Times", bound=Tensor | Sequence[float] | None)


def descending(times: _Times) -> _Times:
    """The times, unchanged. Raises FAEError unless they descend within [0, 1]."""
    grid = [1.0, 0.0] if times is None else check_times(times)
    if not 1 >= grid[0] > grid[-1] >= 0:
        raise FAEError(f"sampling times descend within [0, 1], where 1 is noise, not from {grid[0]:g} to {grid[-1]:g}")
    return times


def grid_of(settings: Sampling, transport: Transport) -> Tensor:
    """The grid of `steps` and `shift`.

    Args:
        settings: Of sampling.
        transport: The model's; its shift and range hold where the settings have none.
    """
    shift = transport.shift if settings.shift is None else settings.shift
    least, start = transport.range
    end = max(least, shift_time(shift, time_of(settings.end)).item())
    last = 0.0
    if settings.to_zero:
        end, last = least, end - least
    if not last and settings.stochastic and settings.last_step is not None:
        # Times that end above 0 leave that much less for the last step.
        last = max(0.0, settings.last_step_size - end)
    return sde_grid(settings.steps, last_step_size=last, shift=shift, start=start, end=end)


def integrated(
    velocity: GuidedVelocity,
    z: Tensor,
    grid: Tensor | Sequence[float],
    settings: Sampling,
    path: PathName,
    random: SlotRandom | None,
    observe: Observer | None,
) -> Tensor:
    """The state at the last time of the grid, by the method of the settings.

    Args:
        velocity: Of the model, guided.
        z: The state at the first time, (B, C, h, w).
        grid: Descending times.
        settings: Of sampling.
        path: Of the model's transport.
        random: Draws the noise of an SDE.
        observe: Called at the first state and after every step; an adaptive method shows its states when it is done.
    """
    watched = None
    if observe is not None:
        watched = _Watched(observe, len(grid) - 1)
        watched(float(grid[0]), z)
    if settings.stochastic:
        return integrate_sde(
            velocity,
            z,
            grid,
            method="heun" if settings.method == "sde-heun" else "euler",
            diffusion=settings.diffusion,
            norm=settings.diffusion_norm,
            last_step=settings.last_step,
            path=path,
            random=random,
            seen=watched,
        )
    if settings.method in ADAPTIVE:
        # One step size per sample: with a shared one, a sample would depend on the others of its batch.
        shown = watched if getattr(observe, "needs_states", True) else None
        states: list[list[tuple[float, Tensor]]] = []
        for i in range(len(z)):
            row, kept = velocity.row(i), []
            integrate(
                row if watched is None else watched.between(row, i / len(z), f"sample {i + 1} of {len(z)}"),
                z[i : i + 1],
                grid,
                settings.method,
                atol=settings.atol,
                rtol=settings.rtol,
                past_end=settings.past_end,
                seen=lambda t, x, kept=kept: kept.append((t, x)),
            )
            states.append(kept if shown is not None else kept[-1:])
        for rows in zip(*states, strict=True):
            z = torch.cat([x for _, x in rows])
            if shown is not None:
                shown(rows[0][0], z)
        return z
    return integrate(velocity, z, grid, settings.method, path=path, seen=watched)


class _Watched:
    """What an integrator calls with each time and state, for an `Observer`.

    Args:
        observe: is told.
        steps: of the grid.
    """

    def __init__(self, observe: Observer, steps: int) -> None:
        self.observe, self.steps, self.taken = observe, steps, 0

    def __call__(self, t: float, z: Tensor) -> None:
        self.observe(SamplingStep(self.taken / self.steps, f"t = {t:.3g}", z))
        self.taken += 1

    def between(self, velocity: Velocity, done: float, name: str) -> Velocity:
        """A velocity that tells of each of its evaluations."""

        def evaluated(z: Tensor, t: Tensor) -> Tensor:
            self.observe(SamplingStep(done, name, None))
            return velocity(z, t)

        return evaluated
