"""Samplers against closed forms: a Gaussian's probability flow is linear, its solution and marginals are known."""

from __future__ import annotations

import math

import pytest
import torch

from fae_core.errors import FAEError
from fae_core.random import SlotRandom
from fae_diffusion import integrate, integrate_sde, sde_grid, time_grid
from fae_diffusion.samplers import ADAPTIVE, DIFFUSIONS, LAST_STEPS, METHODS, diffusion_coefficient
from fae_diffusion.transport import path

MEAN, STD = 1.5, 0.5  # of the data


def gaussian_velocity(name: str = "linear"):
    """The exact velocity when data are N(MEAN, STD^2): E[v | x]."""

    def velocity(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        at = path(name, t, z)
        variance = at.alpha**2 * STD**2 + at.sigma**2
        centred = z - at.alpha * MEAN
        slope = (at.alpha * at.d_alpha * STD**2 + at.sigma * at.d_sigma) / variance
        return at.d_alpha * MEAN + slope * centred

    return velocity


def marginal(t: float, deviations: torch.Tensor, name: str = "linear") -> torch.Tensor:
    """The points of time t that lie so many standard deviations from the mean: the flow maps them to one another."""
    at = path(name, torch.tensor(t, dtype=torch.float64))
    return at.alpha * MEAN + (at.alpha**2 * STD**2 + at.sigma**2).sqrt() * deviations


NOISE = torch.randn(16, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
EXACT = MEAN + STD * NOISE


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4), ("dpm++2m", 2)])
def test_methods_converge_with_their_order(method: str, order: int) -> None:
    start, end = 0.9, 0.1  # within the ends of time, where dpm++2m steps by the first order
    errors = []
    for steps in (32, 64):
        times = time_grid(steps, start=start, end=end)
        solution = integrate(gaussian_velocity(), marginal(start, NOISE), times, method)
        errors.append((solution - marginal(end, NOISE)).abs().max().item())
    assert errors[1] < 0.03 and math.log2(errors[0] / errors[1]) > order - 0.35


@pytest.mark.parametrize("method", [*METHODS, "dpm++2m"])
def test_methods_arrive_at_the_data(method: str) -> None:
    torch.testing.assert_close(integrate(gaussian_velocity(), NOISE, time_grid(200), method), EXACT, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["linear", "gvp"])
def test_adaptive_methods_meet_their_tolerance(name: str) -> None:
    pytest.importorskip("torchdiffeq", reason="the extra fae-diffusion[ode] is not installed")
    solution = integrate(gaussian_velocity(name), NOISE, [1.0, 0.0], "dopri5", atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(solution, EXACT, atol=2e-4, rtol=0)


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("times", [[1.0, 0.0], [0.0, 1.0], [0.9, 0.5, 0.1], [0.01, 0.0]], ids=str)
def test_adaptive_methods_ask_for_no_time_beyond_the_grid(method: str, times: list[float]) -> None:
    """Beyond the data a network was never trained; here the velocity is another one there."""
    pytest.importorskip("torchdiffeq", reason="the extra fae-diffusion[ode] is not installed")
    asked = []

    def velocity(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        asked.append(t[0].item())
        inside = min(times) <= round(asked[-1], 6) <= max(times)
        return gaussian_velocity()(z, t) if inside else 100 * torch.ones_like(z)

    seen: dict[float, torch.Tensor] = {}
    start = marginal(times[0], NOISE)
    result = integrate(
        velocity, start, times, method, atol=1e-6, rtol=1e-5, past_end=False, seen=lambda t, z: seen.update({t: z})
    )
    assert min(times) - 1e-7 <= min(asked) <= max(asked) <= max(times) + 1e-7
    assert len(seen) == len(times) - 1 and torch.equal(list(seen.values())[-1], result)
    for t, state in seen.items():
        torch.testing.assert_close(state, marginal(t, NOISE), atol=2e-3, rtol=0)


def test_past_the_end_an_adaptive_method_interpolates_as_torchdiffeq_does() -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq", reason="the extra fae-diffusion[ode] is not installed")
    asked = []

    def velocity(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        asked.append(t[0].item())
        return gaussian_velocity()(z, t)

    result = integrate(velocity, NOISE, [1.0, 0.0], "dopri5", atol=1e-6, rtol=1e-3)
    assert min(asked) < -0.01
    theirs = torchdiffeq.odeint(
        lambda t, z: gaussian_velocity()(z, t.expand(len(z))), NOISE, torch.tensor([1.0, 0.0]), atol=1e-6, rtol=1e-3
    )
    torch.testing.assert_close(result, theirs[-1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_encoding_undoes_sampling(method: str) -> None:
    times = time_grid(400)
    z = integrate(gaussian_velocity(), NOISE, times, method)
    back = integrate(gaussian_velocity(), z, times.flip(0), method)
    torch.testing.assert_close(back, NOISE, atol=0.05, rtol=0)


@pytest.mark.parametrize("name", ["linear", "gvp", "vp"])
@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_every_diffusion_keeps_the_marginals(name: str, diffusion: str) -> None:
    noise = torch.randn(4, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    # VP's noise grows fastest; its own coefficient is up to 10, so the steps must be short.
    times = sde_grid(300, last_step_size=0.04 if name != "vp" else 0.02)
    z = integrate_sde(
        gaussian_velocity(name),
        noise,
        times,
        diffusion=diffusion,
        path=name,
        last_step="euler",
        random=SlotRandom(0, range(4)),
    )
    # Standard error of the mean 0.008, of the deviation 0.006; the rest is the step size.
    assert z.mean().item() == pytest.approx(MEAN, abs=0.04)
    assert z.std().item() == pytest.approx(STD, abs=0.05)


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("last_step", [*LAST_STEPS, None])
@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_no_combination_of_rules_fails_at_a_pole(method: str, last_step: str | None, diffusion: str) -> None:
    options = {"method": method, "last_step": last_step, "diffusion": diffusion, "random": SlotRandom(0, range(16))}
    for times in (sde_grid(6), time_grid(6), time_grid(1) if last_step is None else sde_grid(2)):
        assert torch.isfinite(integrate_sde(gaussian_velocity(), NOISE, times, **options)).all()


def test_without_diffusion_the_sde_is_the_ode() -> None:
    times = time_grid(10)
    ours = integrate_sde(gaussian_velocity(), NOISE, times, diffusion="constant", norm=0.0, last_step="mean")
    torch.testing.assert_close(ours, integrate(gaussian_velocity(), NOISE, times, "euler"))


def test_coefficients_have_sit_s_values() -> None:
    """Its formulas in its time t' = 1 - t, at t = 0.3."""
    t, theirs = 0.3, 0.7
    expected = {
        "sigma": 1 - theirs,
        "linear": 1 - theirs,
        "constant": 1.0,
        "decreasing": 0.25 * (math.cos(math.pi * theirs) + 1) ** 2,
        "increasing-decreasing": math.sin(math.pi * theirs) ** 2,
        "sbdm": (1 - theirs) ** 2 / theirs + (1 - theirs),
    }
    for form, value in expected.items():
        assert diffusion_coefficient(form, t, 0.2) == pytest.approx(value), form
    assert diffusion_coefficient("sbdm", t, 0.2, "vp") == pytest.approx((0.1 + t * 19.9) / 2)


def test_noise_of_a_step_belongs_to_its_sample() -> None:
    options = {"diffusion": "sigma", "last_step": None}
    whole = integrate_sde(gaussian_velocity(), NOISE, time_grid(5), random=SlotRandom(7, range(16)), **options)
    part = integrate_sde(gaussian_velocity(), NOISE[3:5], time_grid(5), random=SlotRandom(7, [3, 4]), **options)
    assert torch.equal(whole[3:5], part)


def test_grids_have_their_ends_and_their_steps() -> None:
    assert time_grid(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert time_grid(2, shift=3.0).tolist() == pytest.approx([1.0, 0.75, 0.0])
    assert time_grid(3, shift=2.0, start=0.9, end=0.1)[[0, -1]].tolist() == [0.9, 0.1]
    grid = sde_grid(4, last_step_size=0.1, shift=2.5)
    assert len(grid) == 5 and grid[-2:].tolist() == pytest.approx([0.1, 0.0])
    assert (grid.diff() < 0).all()


@pytest.mark.parametrize("times", [[1.0], [1.0, 0.5, 0.6, 0.0], [1.0, 1.0, 0.0], [1.0, math.nan, 0.0]])
def test_grids_that_turn_back_are_refused(times: list[float]) -> None:
    with pytest.raises(FAEError, match="times must be"):
        integrate(gaussian_velocity(), NOISE, times)


def test_unknown_names_are_refused_with_a_suggestion() -> None:
    with pytest.raises(FAEError, match="did you mean heun"):
        integrate(gaussian_velocity(), NOISE, time_grid(2), "huen")
    with pytest.raises(FAEError, match="did you mean sigma"):
        integrate_sde(gaussian_velocity(), NOISE, sde_grid(3), diffusion="sgima")
    with pytest.raises(FAEError, match="as many noises"):
        integrate_sde(gaussian_velocity(), NOISE, sde_grid(3), noises=torch.zeros(3, *NOISE.shape))
