"""Agreement of every number with the original programs (cases made by running them; see the shared data's README)."""

from __future__ import annotations

import pytest
import torch

from fae_core.testing import shared_folder
from fae_diffusion import LightningDiT, SiT, integrate, integrate_sde, sde_grid, shift_time, time_grid
from fae_diffusion.guidance import Guidance
from fae_diffusion.guided_velocity import GuidedVelocity
from fae_diffusion.integration import grid_of
from fae_diffusion.samplers.config import sampling_with
from fae_diffusion.transport import Transport, shift_from_lightningdit

# Tolerances that the cases state: any wrong convention shows at 5e-2 or more, tanh for exact GELU at 1.7e-4.
FORWARD = {"atol": 5e-5, "rtol": 0}
SAMPLER = {"atol": 2e-4, "rtol": 0}


class Case:
    """An original's inputs and outputs, and our model with its weights."""

    def __init__(self, name: str, cls: type) -> None:
        stored = torch.load(shared_folder("cases", "parity", f"{name}.pt"), weights_only=True)
        self.inputs, self.outputs, self.gradients = stored["inputs"], stored["outputs"], stored["grad_norms"]
        self.model = cls.from_official(stored["state_dict"], stored["config"])
        self.labels, self.null = self.inputs["y"], self.inputs["y_null"]

    def official(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The original's answer, by our model."""
        return -self.model(x, 1 - t, labels)

    def velocity(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.model(z, t, self.labels)

    def guided(self, **guidance: object) -> GuidedVelocity:
        return GuidedVelocity(self.model, self.labels, Guidance(**guidance), null=self.null)


@pytest.fixture(scope="module")
def sit() -> Case:
    return Case("sit_A", SiT)


@pytest.fixture(scope="module")
def lightningdit() -> Case:
    return Case("lightningdit_A", LightningDiT)


@pytest.fixture(params=["sit", "lightningdit"])
def either(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue(request.param)


@torch.no_grad()
def test_forward(either: Case) -> None:
    x, t = either.inputs["x"], either.inputs["t"]
    torch.testing.assert_close(either.official(x, t, either.labels), either.outputs["forward"], **FORWARD)
    torch.testing.assert_close(either.official(x, t, either.null), either.outputs["forward_null"], **FORWARD)


@torch.no_grad()
@pytest.mark.parametrize("t", [0, 1])
def test_forward_at_the_ends_of_time(sit: Case, t: int) -> None:
    ours = sit.official(sit.inputs["x"], torch.full((3,), float(t)), sit.labels)
    torch.testing.assert_close(ours, sit.outputs[f"forward_t{t}"], **FORWARD)


@torch.no_grad()
def test_guidance_of_the_first_three_channels(sit: Case) -> None:
    velocity = GuidedVelocity(sit.model, sit.labels, Guidance(scale=sit.inputs["cfg_scale"], channels=3), null=sit.null)
    t = sit.inputs["t"]
    # One time per call here, so sample by sample: the case has a time of its own for each.
    rows = [-velocity.row(i).at(sit.inputs["x"][i : i + 1], 1 - t[i].item()) for i in range(3)]
    torch.testing.assert_close(torch.cat(rows), sit.outputs["forward_with_cfg"][:3], **FORWARD)


@torch.no_grad()
def test_guidance_interval_of_lightningdit(lightningdit: Case) -> None:
    start = lightningdit.inputs["cfg_interval_start"]
    velocity = lightningdit.guided(scale=lightningdit.inputs["cfg_scale"], interval=(0.0, 1 - start), channels=3)
    for name, times in (("below", "t_lo"), ("above", "t_hi")):
        t = lightningdit.inputs[times][0].item()
        ours = -velocity.at(lightningdit.inputs["x"], 1 - t)
        torch.testing.assert_close(ours, lightningdit.outputs[f"cfg_interval_{name}"][:3], **FORWARD)


@torch.no_grad()
@pytest.mark.parametrize(("method", "key"), [("euler", "euler"), ("heun", "heun2"), ("rk4", "rk4")])
def test_ode_of_sit(sit: Case, method: str, key: str) -> None:
    times = time_grid(sit.inputs["steps"] - 1)
    ours = integrate(sit.velocity, sit.inputs["noise"], times, method)
    torch.testing.assert_close(ours, sit.outputs[f"ode_{key}_6"], **SAMPLER)


@torch.no_grad()
def test_adaptive_ode_of_sit(sit: Case) -> None:
    pytest.importorskip("torchdiffeq", reason="the extra fae-diffusion[ode] is not installed")
    times, options = time_grid(49), {"atol": 1e-6, "rtol": 1e-3}
    ours = integrate(sit.velocity, sit.inputs["noise"], times, "dopri5", **options)
    torch.testing.assert_close(ours, sit.outputs["ode_dopri5_50_atol1e-6_rtol1e-3"], **SAMPLER)
    assert SiT.named_sampling["sit-ode"].items() >= {"method": "dopri5", "past_end": True, **options}.items()


@torch.no_grad()
def test_guided_ode_of_sit(sit: Case) -> None:
    velocity = sit.guided(scale=2.5, channels=3)
    ours = integrate(velocity, sit.inputs["noise"], time_grid(5))
    torch.testing.assert_close(ours, sit.outputs["ode_euler_6_cfg2.5"], **SAMPLER)


@torch.no_grad()
@pytest.mark.parametrize("last_step", ["mean", "tweedie", "euler"])
@pytest.mark.parametrize("diffusion", ["sigma", "linear", "decreasing"])
def test_sde_of_sit(sit: Case, diffusion: str, last_step: str) -> None:
    # Its six points are five noisy steps to 0.04, and one last step.
    ours = integrate_sde(
        sit.velocity,
        sit.inputs["noise"],
        sde_grid(6, last_step_size=0.04),
        diffusion=diffusion,
        last_step=last_step,
        noises=sit.inputs["sde_noises"],
    )
    torch.testing.assert_close(ours, sit.outputs[f"sde_euler_6_{diffusion}_{last_step.title()}_0.04"], **SAMPLER)


@torch.no_grad()
def test_ode_of_lightningdit_with_its_timestep_shift(lightningdit: Case) -> None:
    noise, points = lightningdit.inputs["noise"], lightningdit.inputs["steps"]
    shift = shift_from_lightningdit(lightningdit.inputs["timestep_shift"])
    times = time_grid(points - 1, shift=shift)
    torch.testing.assert_close(
        (1 - times).float(), lightningdit.outputs["shifted_grid"], atol=1e-6, rtol=0, check_dtype=False
    )
    plain = integrate(lightningdit.velocity, noise, time_grid(points - 1))
    torch.testing.assert_close(plain, lightningdit.outputs["ode_euler_6"], **SAMPLER)
    shifted = integrate(lightningdit.velocity, noise, times)
    torch.testing.assert_close(shifted, lightningdit.outputs["ode_euler_6_shift0.3"], **SAMPLER)
    guided = lightningdit.guided(scale=4.0, interval=(0.0, 1 - 0.125), channels=3)
    torch.testing.assert_close(
        integrate(guided, noise, times), lightningdit.outputs["ode_euler_6_shift0.3_cfg4_start0.125"], **SAMPLER
    )


@torch.no_grad()
def test_settings_of_the_originals_by_name_are_their_grids_and_guidance(lightningdit: Case, sit: Case) -> None:
    """The cases have fewer points, another scale and start: the rest is what the name takes."""
    guidance = {"scale": 4.0, "interval": [0.0, 1 - 0.125], "channels": 3}
    ours = lightningdit.model.sample(
        lightningdit.labels, noise=lightningdit.inputs["noise"], sampling="lightningdit", steps=5, guidance=guidance
    )
    torch.testing.assert_close(ours, lightningdit.outputs["ode_euler_6_shift0.3_cfg4_start0.125"], **SAMPLER)
    assert LightningDiT.named_sampling["lightningdit"]["guidance"] == Guidance(**{**guidance, "scale": 6.7})
    # The case's guidance and its 6 points, with the noises that its SDE drew; the name's are 1.5 and 250.
    named = sampling_with(sit.model.config.sampling, SiT.named_sampling["sit"])
    assert (named.steps, named.guidance) == (250, Guidance(scale=1.5, channels=3))
    grid = grid_of(named.model_copy(update={"steps": 6}), sit.model.transport)
    settings = {"diffusion": named.diffusion, "norm": named.diffusion_norm, "last_step": named.last_step}
    ours = integrate_sde(sit.velocity, sit.inputs["noise"], grid, noises=sit.inputs["sde_noises"], **settings)
    torch.testing.assert_close(ours, sit.outputs["sde_euler_6_sigma_Mean_0.04"], **SAMPLER)


def test_training_losses_and_gradients(either: Case) -> None:
    transport = Transport(cosine=float("train_cos_per_sample" in either.outputs))
    z0, noise, t = either.inputs["x"], either.inputs["noise"], 1 - either.inputs["t"]
    either.model.zero_grad()
    at = transport.coefficients(t, z0)
    terms = transport.loss(either.model(at.state(z0, noise), t, either.labels), z0, noise, t)
    key = "train_loss_per_sample" if "train_loss_per_sample" in either.outputs else "train_mse_per_sample"
    torch.testing.assert_close(terms["mse"], either.outputs[key], **FORWARD)
    if "train_cos_per_sample" in either.outputs:
        torch.testing.assert_close(terms["cosine"], either.outputs["train_cos_per_sample"], **FORWARD)
    terms["loss"].mean().backward()
    ours = sorted(p.grad.norm().item() for p in either.model.parameters() if p.grad is not None)
    torch.testing.assert_close(
        torch.tensor(ours), torch.tensor(sorted(either.gradients.values())), atol=1e-4, rtol=1e-3
    )


def test_a_shift_acts_in_the_stated_direction() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(1 - shift_time(2.5, 1 - t), shift_time(0.4, t))
    assert shift_from_lightningdit(0.4) == 2.5 and (shift_time(2.5, t[1:-1]) > t[1:-1]).all()
