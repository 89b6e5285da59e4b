"""The convention, the paths and the losses, against calculus and hand-computed values."""

from __future__ import annotations

import math

import pytest
import torch

from fae_diffusion import Transport, shift_time
from fae_diffusion.transport import path, shift_for_size, shift_from_sd3

PATHS = ("linear", "gvp", "vp")
T = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)


@pytest.mark.parametrize("name", PATHS)
def test_derivatives_are_those_of_the_path(name: str) -> None:
    t = T.clone().requires_grad_()
    at = path(name, t)
    d_alpha = torch.autograd.grad(at.alpha.sum(), t, retain_graph=True)[0]
    d_sigma = torch.autograd.grad(at.sigma.sum(), t)[0]
    torch.testing.assert_close(at.d_alpha, d_alpha)
    torch.testing.assert_close(at.d_sigma, d_sigma)


@pytest.mark.parametrize("name", PATHS)
def test_data_at_zero_and_noise_at_one(name: str) -> None:
    ends = path(name, torch.tensor([0.0, 1.0], dtype=torch.float64))
    # VP reaches neither end exactly: alpha(1) is exp(-5.025), and its t stays above 1e-5.
    torch.testing.assert_close(ends.alpha, torch.tensor([1.0, 0.0], dtype=torch.float64), atol=7e-3, rtol=0)
    torch.testing.assert_close(ends.sigma, torch.tensor([0.0, 1.0], dtype=torch.float64), atol=1.1e-3, rtol=0)


def test_the_linear_path_is_the_paper_s() -> None:
    z0, noise = torch.tensor([[2.0]]), torch.tensor([[10.0]])
    at = path("linear", torch.tensor([0.25]), z0)
    assert at.state(z0, noise).item() == 4.0  # 0.75 * 2 + 0.25 * 10
    assert at.velocity(z0, noise).item() == 8.0  # noise - data


@pytest.mark.parametrize("name", ["gvp", "vp"])
def test_variance_is_preserved(name: str) -> None:
    at = path(name, T)
    torch.testing.assert_close(at.alpha.square() + at.sigma.square(), torch.ones_like(T))


@pytest.mark.parametrize("name", PATHS)
def test_conversions_round_trip(name: str) -> None:
    z0, noise = (torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    at = path(name, T, z0)
    x, v = at.state(z0, noise), at.velocity(z0, noise)
    torch.testing.assert_close(at.velocity_to_noise(v, x), noise)
    torch.testing.assert_close(at.velocity_to_data(v, x), z0)
    torch.testing.assert_close(at.noise_to_velocity(noise, x), v)
    torch.testing.assert_close(at.data_to_velocity(z0, x), v)
    torch.testing.assert_close(at.noise_to_score(noise), -(x - at.alpha * z0) / at.sigma**2)


def test_shift_is_its_own_family() -> None:
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    torch.testing.assert_close(shift_time(1 / 3, shift_time(3.0, t)), t)
    torch.testing.assert_close(shift_time(2.0, shift_time(3.0, t)), shift_time(6.0, t))
    assert shift_time(3.0, torch.tensor(0.5)).item() == pytest.approx(0.75)
    assert shift_from_sd3(3.0) == 3.0 and shift_for_size(32 * 16 * 16) == pytest.approx(math.sqrt(2))


def test_training_times_follow_their_distribution() -> None:
    uniform = (torch.arange(10000, dtype=torch.float64) + 0.5) / 10000
    assert torch.equal(Transport().times(uniform), uniform)
    normal = torch.logit(Transport(time="logit_normal", time_mean=-0.4, time_std=0.7).times(uniform))
    assert normal.mean().item() == pytest.approx(-0.4, abs=1e-3) and normal.std().item() == pytest.approx(0.7, abs=1e-2)
    shifted = Transport(shift=2.5).times(uniform)
    torch.testing.assert_close(shifted, shift_time(2.5, uniform))
    assert shifted.mean() > 0.6  # more noise


def test_times_stay_off_the_poles() -> None:
    ends = torch.tensor([0.0, 1.0])
    assert Transport().times(ends).tolist() == [0.0, 1.0]
    for transport in (Transport(prediction="noise"), Transport(prediction="data", path="gvp")):
        assert transport.times(ends).tolist() == pytest.approx([1e-3, 1 - 1e-3])
    assert torch.isfinite(Transport(time="logit_normal").times(ends)).all()


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("prediction", ["noise", "data"])
def test_velocity_weighting_measures_the_error_as_a_velocity(name: str, prediction: str) -> None:
    z0, noise, output = (
        torch.randn(5, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)
    )
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    transport = Transport(path=name, prediction=prediction, weighting="velocity")
    at = path(name, t, z0)
    velocity = transport.velocity(output, at.state(z0, noise), t)
    expected = (velocity - at.velocity(z0, noise)).square().flatten(1).mean(1)
    torch.testing.assert_close(
        transport.loss(output, z0, noise, t)["loss"], expected, check_dtype=False, atol=1e-4, rtol=1e-5
    )


def test_the_direction_term_ignores_length() -> None:
    z0, noise = (torch.randn(4, 6, 2, 2, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    transport = Transport(cosine=2.0)
    terms = transport.loss(3 * (noise - z0), z0, noise, torch.full((4,), 0.5))
    torch.testing.assert_close(terms["cosine"], torch.zeros(4), atol=1e-6, rtol=0)
    opposite = transport.loss(z0 - noise, z0, noise, torch.full((4,), 0.5))
    torch.testing.assert_close(opposite["cosine"], torch.full((4,), 2.0))
    torch.testing.assert_close(opposite["loss"], opposite["mse"] + 4.0)
