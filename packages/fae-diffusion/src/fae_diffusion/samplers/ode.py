"""integrate(): the probability-flow ODE dx/dt = v(x, t) along an explicit grid of times.

A method is one step, a function (velocity, x, t, s) -> x with times as Python numbers, so that no step waits for the
device. A new method is a new entry in `METHODS`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from fae_core.errors import FAEError, MissingPackage, UnknownName, first_line
from fae_diffusion.transport import Coefficients, PathName, path, time_of

Velocity = Callable[[Tensor, Tensor], Tensor]
Seen = Callable[[float, Tensor], None]

_MOST_STEPS = 100_000  # of an adaptive method
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")


def integrate(
    velocity: Velocity,
    z: Tensor,
    times: Tensor | Sequence[float],
    method: str = "euler",
    *,
    path: PathName = "linear",
    atol: float = 1e-6,
    rtol: float = 1e-3,
    past_end: bool = True,
    seen: Seen | None = None,
) -> Tensor:
    """The solution of dz/dt = velocity(z, t) at the last of `times`.

    Args:
        velocity: (z (B, ...), t (B,)) -> dz/dt.
        z: the state at the first time, (B, ...).
        times: strictly monotone; from 1 down to 0 to sample, upwards to encode.
        method: "euler", "midpoint", "heun" (torchdiffeq's heun2), "rk4" (its 3/8 rule), "dpm++2m"; "mean_flow" for a
            `GuidedVelocity` of a network of mean velocities; or one of torchdiffeq's adaptive methods "dopri5",
            "dopri8", "bosh3", "adaptive_heun". These choose one step size for the whole batch, so that a result
            depends, within the tolerance, on the other samples of its batch.
        path: of the transport; only "dpm++2m" needs it.
        atol: absolute tolerance of an adaptive method.
        rtol: relative tolerance of an adaptive method.
        past_end: let the last step of an adaptive method pass the last time, and interpolate the state there, as
            torchdiffeq does and SiT with it; the velocity is then asked for times beyond `times`. Models sample with
            False (`Sampling.past_end`), since they are trained for times in [0, 1] alone.
        seen: called with every time of the grid after the first, and the state there; an adaptive method calls it when
            it is done.

    Raises:
        UnknownName: for an unknown method.
        FAEError: for times that are not monotone, or an adaptive method that finds no step.
        MissingPackage: for an adaptive method without torchdiffeq.
    """
    grid = check_times(times)
    if method in ADAPTIVE:
        return _adaptive(velocity, z, times, method, atol, rtol, past_end, seen)
    if method == "dpm++2m":
        return _dpm_solver_2m(velocity, z, grid, path, seen)
    if method not in (*METHODS, "mean_flow"):
        raise UnknownName("ODE method", method, [*METHODS, "dpm++2m", "mean_flow", *ADAPTIVE])
    step = METHODS.get(method, _mean_flow)
    for t, s in itertools.pairwise(grid):
        z = step(velocity, z, t, s)
        if seen is not None:
            seen(s, z)
    return z


def check_times(times: Tensor | Sequence[float]) -> list[float]:
    """The times as Python numbers.

    Args:
        times: In the order of the steps, from noise (1) to data (0).

    Raises:
        FAEError: unless there are two or more, finite and strictly monotone.
    """
    try:
        grid = [float(t) for t in (times.tolist() if isinstance(times, Tensor) else times)]
    except (TypeError, ValueError, OverflowError):
        grid = []
    steps = [b - a for a, b in itertools.pairwise(grid)]
    if not steps or not all(math.isfinite(s) for s in steps) or not (max(steps) < 0 or min(steps) > 0):
        raise FAEError("times must be two or more, finite, and all descending or all ascending")
    return grid


def evaluate(velocity: Velocity, x: Tensor, t: float) -> Tensor:
    """The velocity at one time for the whole batch. A `GuidedVelocity` takes the number itself."""
    at = getattr(velocity, "at", None)
    if at is not None:
        return at(x, t)
    return velocity(x, torch.full((len(x),), t, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device))


def _euler(velocity: Velocity, x: Tensor, t: float, s: float) -> Tensor:
    return x + (s - t) * evaluate(velocity, x, t)


def _midpoint(velocity: Velocity, x: Tensor, t: float, s: float) -> Tensor:
    half = (s - t) / 2
    return x + (s - t) * evaluate(velocity, x + half * evaluate(velocity, x, t), t + half)


def _heun(velocity: Velocity, x: Tensor, t: float, s: float) -> Tensor:
    first = evaluate(velocity, x, t)
    second = evaluate(velocity, x + (s - t) * first, s)
    return x + (s - t) / 2 * (first + second)


def _rk4(velocity: Velocity, x: Tensor, t: float, s: float) -> Tensor:
    """Kutta's 3/8 rule, which torchdiffeq calls rk4."""
    h = s - t
    k1 = evaluate(velocity, x, t)
    k2 = evaluate(velocity, x + h / 3 * k1, t + h / 3)
    k3 = evaluate(velocity, x + h * (k2 - k1 / 3), t + 2 * h / 3)
    k4 = evaluate(velocity, x + h * (k1 - k2 + k3), s)
    return x + h / 8 * (k1 + 3 * (k2 + k3) + k4)


METHODS: dict[str, Callable[[Velocity, Tensor, float, float], Tensor]] = {
    "euler": _euler,
    "midpoint": _midpoint,
    "heun": _heun,
    "rk4": _rk4,
}


def _dpm_solver_2m(velocity: Velocity, x: Tensor, times: list[float], path_name: PathName, seen: Seen | None) -> Tensor:
    """DPM-Solver++(2M) (Lu et al., 2022); of first order where the log signal-to-noise ratio is infinite: t = 1, 0."""
    if times[0] < times[-1]:
        raise FAEError("dpm++2m integrates from noise to data only; use heun or rk4 to encode")
    previous: tuple[float, Tensor] | None = None
    for t, s in itertools.pairwise(times):
        now, then = (path(path_name, time_of(u)) for u in (t, s))
        at = path(path_name, time_of(t), x)
        data = at.velocity_to_data(evaluate(velocity, x, t), x)
        step = _log_snr(then) - _log_snr(now)
        estimate = data
        if previous is not None and math.isfinite(step) and math.isfinite(previous[0]):
            estimate = data + step / (2 * previous[0]) * (data - previous[1])
        ratio = (then.sigma / now.sigma).item()
        x = ratio * x + (then.alpha - ratio * now.alpha).item() * estimate
        previous = (step, data)
        if seen is not None:
            seen(s, x)
    return x


def _mean_flow(velocity: Velocity, x: Tensor, t: float, s: float) -> Tensor:
    """The mean velocity of the interval (Geng et al., 2025)."""
    at = getattr(velocity, "at", None)
    if at is None:
        raise FAEError("mean_flow integrates a model of mean velocities through its `sample`, not a function of (z, t)")
    return x + (s - t) * at(x, t, until=s)


def _log_snr(at: Coefficients) -> float:
    alpha, sigma = at.alpha.item(), at.sigma.item()
    # cos(pi / 2) is 6e-17 in floating point, which stands for 0.
    return -math.inf if alpha < 1e-12 else math.inf if sigma < 1e-12 else math.log(alpha / sigma)


def _adaptive(
    velocity: Velocity,
    z: Tensor,
    times: Tensor | Sequence[float],
    method: str,
    atol: float,
    rtol: float,
    past_end: bool,
    seen: Seen | None,
) -> Tensor:
    try:
        from torchdiffeq import odeint
    except ImportError:
        raise MissingPackage(f"the ODE method {method}", "fae-diffusion[ode]") from None
    grid = torch.as_tensor(times, dtype=torch.float32, device=z.device)
    options: dict[str, Any] = {"max_num_steps": _MOST_STEPS}
    low, high = -math.inf, math.inf
    if not past_end:
        options["step_t"] = grid[-1:]  # a step ends there
        low, high = sorted((grid[0].item(), grid[-1].item()))  # the guess of the first step's size looks further
    try:
        states = odeint(
            lambda t, x: evaluate(velocity, x, min(max(float(t), low), high)),
            z,
            grid,
            method=method,
            atol=atol,
            rtol=rtol,
            options=options,
        )
    except AssertionError as error:  # what torchdiffeq raises for a step that became too small, or for too many steps
        raise FAEError(
            f"{method} found no step small enough for atol {atol:g} and rtol {rtol:g} ({first_line(error)}): the "
            "velocity is not finite or too steep; lower the guidance scale, raise the tolerances, or take a method of "
            "fixed steps"
        ) from None
    states = cast(Tensor, states)  # odeint also takes tuples of states, and then returns one
    if seen is not None:
        for t, state in zip(grid.tolist()[1:], states[1:], strict=True):
            seen(t, state)
    return states[-1]
