"""integrate_sde(): the reverse SDE of SiT (Ma et al., 2024, section 2.4) with any of several diffusion coefficients.

From t down to t - h:  x <- x + h (w(t) score - v) + sqrt(2 w(t) h) noise.  Every w >= 0 has the same marginals.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from fae_core.errors import FAEError, UnknownName
from fae_core.random import SlotRandom
from fae_diffusion.samplers.config import Diffusion, LastStep
from fae_diffusion.samplers.ode import Seen, Velocity, check_times, evaluate
from fae_diffusion.transport import Coefficients, PathName, path, time_of, vp_beta

DIFFUSIONS: tuple[Diffusion, ...] = get_args(Diffusion)
LAST_STEPS: tuple[LastStep, ...] = get_args(LastStep)


def integrate_sde(
    velocity: Velocity,
    z: Tensor,
    times: Tensor | Sequence[float],
    *,
    method: Literal["euler", "heun"] = "euler",
    diffusion: Diffusion = "sigma",
    norm: float = 1.0,
    last_step: LastStep | None = "mean",
    path: PathName = "linear",
    noises: Tensor | None = None,
    random: SlotRandom | None = None,
    seen: Seen | None = None,
) -> Tensor:
    """Samples of the reverse SDE at the last of `times`.

    Args:
        velocity: (z (B, ...), t (B,)) -> dz/dt of the probability-flow ODE.
        z: the state at the first time, (B, ...).
        times: descending; see `sde_grid`.
        method: "euler": Euler-Maruyama; "heun": SiT's variant of it with two evaluations, which adds the noise first.
        diffusion: form of w(t); see `diffusion_coefficient`.
        norm: factor of w(t).
        last_step: the last interval, without noise: "mean": the drift of the SDE, "tweedie": the predicted data,
            "euler": the velocity alone. None: like every other interval, with noise.
        path: of the transport.
        noises: (steps with noise, *z.shape); None: drawn.
        random: draws the noises, one stream per step; None: torch's global generator.
        seen: called with every time after the first, and the state there.

    Raises:
        FAEError: for times that do not descend, or another number of noises.
        UnknownName: for an unknown method, diffusion or last step.
    """
    grid = check_times(times)
    if grid[0] < grid[-1]:
        raise FAEError("an SDE sampler goes from noise to data: its times descend")
    for kind, value, known in (
        ("SDE method", method, ("euler", "heun")),
        ("diffusion coefficient", diffusion, DIFFUSIONS),
        ("last step", last_step or LAST_STEPS[0], LAST_STEPS),
    ):
        if value not in known:
            raise UnknownName(kind, str(value), known)
    solver = _Solver(velocity, diffusion, norm, path)
    steps = list(itertools.pairwise(grid))
    noisy = steps if last_step is None else steps[:-1]
    if noises is not None and len(noises) != len(noisy):
        raise FAEError(f"{len(noisy)} steps with noise need as many noises, not {len(noises)}")
    take = solver.euler_maruyama if method == "euler" else solver.heun
    for index, (t, s) in enumerate(noisy):
        z = take(z, t, s, noises[index] if noises is not None else _draw(z, random, index))
        if seen is not None:
            seen(s, z)
    if last_step is not None:
        z = solver.last(z, *steps[-1], last_step)
        if seen is not None:
            seen(grid[-1], z)
    return z


def diffusion_coefficient(
    form: Diffusion, t: float, s: float, path_name: PathName = "linear", norm: float = 1.0
) -> float:
    """The diffusion coefficient w at time t for a step to s.

    Args:
        form: "sigma": sigma(t). "linear": t. "constant": 1. "decreasing": (1 - cos(pi t))^2 / 4, from noise to data.
            "increasing-decreasing": sin(pi t)^2. "sbdm": sigma sigma' - sigma^2 alpha' / alpha, that of the forward
            process (beta / 2 on VP); where it is infinite, at t = 1 on the linear and GVP paths, its value at s.
        t: where the step begins.
        s: where the step ends.
        path_name: of the transport.
        norm: factor of w; in "decreasing" the factor of the cosine, as in SiT's code.
    """
    if form == "sbdm":
        return norm * _sbdm(path_name, t, s)
    if form == "decreasing":
        return 0.25 * (1 - norm * math.cos(math.pi * t)) ** 2
    sigma = path(path_name, time_of(t)).sigma.item()
    values = {"sigma": sigma, "linear": t, "constant": 1.0, "increasing-decreasing": math.sin(math.pi * t) ** 2}
    return norm * values[form]


def _sbdm(path_name: PathName, t: float, s: float) -> float:
    if path_name == "vp":
        return vp_beta(time_of(t)).item() / 2
    at = path(path_name, time_of(t))
    if at.alpha < 1e-12:
        at = path(path_name, time_of(s))
    return (at.sigma * at.determinant / at.alpha).item()


@dataclass(frozen=True)
class _Solver:
    """One step of each kind, for a given velocity and coefficient."""

    velocity: Velocity
    diffusion: Diffusion
    norm: float
    path_name: PathName

    def euler_maruyama(self, x: Tensor, t: float, s: float, noise: Tensor) -> Tensor:
        w = diffusion_coefficient(self.diffusion, t, s, self.path_name, self.norm)
        return x + (t - s) * self._drift(x, t, w) + math.sqrt(2 * w * (t - s)) * noise

    def heun(self, x: Tensor, t: float, s: float, noise: Tensor) -> Tensor:
        w = diffusion_coefficient(self.diffusion, t, s, self.path_name, self.norm)
        x = x + math.sqrt(2 * w * (t - s)) * noise
        first = self._drift(x, t, w)
        if s <= 0:  # the score has a pole at the data end
            return x + (t - s) * first
        w_end = diffusion_coefficient(self.diffusion, s, s, self.path_name, self.norm)
        return x + (t - s) / 2 * (first + self._drift(x + (t - s) * first, s, w_end))

    def last(self, x: Tensor, t: float, s: float, rule: LastStep) -> Tensor:
        if rule == "tweedie":
            return self._at(x, t).velocity_to_data(evaluate(self.velocity, x, t), x)
        w = diffusion_coefficient(self.diffusion, t, s, self.path_name, self.norm) if rule == "mean" else 0.0
        return x + (t - s) * self._drift(x, t, w)

    def _drift(self, x: Tensor, t: float, w: float) -> Tensor:
        velocity = evaluate(self.velocity, x, t)
        if w == 0:
            return -velocity
        at = self._at(x, t)
        return w * at.noise_to_score(at.velocity_to_noise(velocity, x)) - velocity

    def _at(self, x: Tensor, t: float) -> Coefficients:
        return path(self.path_name, time_of(t), x)


def _draw(z: Tensor, random: SlotRandom | None, index: int) -> Tensor:
    if random is None:
        return torch.randn_like(z)
    return random.normal(z.shape[1:], f"sde/{index}", z.device).to(z.dtype)
