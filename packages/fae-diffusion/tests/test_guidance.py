"""Guidance: where it acts, what it costs, and how it is written in YAML."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import yaml

from fae_core import LatentSpec
from fae_core.config import parse_config
from fae_core.errors import FAEError
from fae_diffusion import Guidance, LightningDiT, integrate, time_grid
from fae_diffusion.guided_velocity import GuidedVelocity

PAPER = "guidance: {parts: [[1.0, 0.9, 0.9], [0.9, 0.7, 1.0], [0.7, 0.0, 2.5]]}"


class Counted:
    """A model whose velocity is its label, everywhere, and which counts the rows it is asked for."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, z: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert t.shape == labels.shape == (len(z),)
        self.rows.append(len(z))
        return labels.float().view(-1, 1, 1, 1).expand_as(z)


def guided(model: Counted, **guidance: object) -> GuidedVelocity:
    return GuidedVelocity(model, torch.tensor([5, 7]), Guidance(**guidance), null=torch.tensor([1, 1]))


Z = torch.zeros(2, 4, 1, 1)


def test_the_paper_s_schedule_is_one_line() -> None:
    guidance = Guidance(**yaml.safe_load(PAPER)["guidance"])
    scales = {t: guidance.scale_at(t) for t in (1.0, 0.95, 0.9, 0.8, 0.7, 0.3, 0.0)}
    assert scales == {1.0: 0.9, 0.95: 0.9, 0.9: 1.0, 0.8: 1.0, 0.7: 2.5, 0.3: 2.5, 0.0: 2.5}


def test_bounds_hold_on_grids_with_rounding() -> None:
    guidance = Guidance(**yaml.safe_load(PAPER)["guidance"])
    times = time_grid(250).tolist()
    assert sum(guidance.scale_at(t) == 0.9 for t in times[:-1]) == 25
    assert sum(guidance.scale_at(t) == 2.5 for t in times[:-1]) == 175


@pytest.mark.parametrize(
    "guidance",
    [
        yaml.safe_load(PAPER)["guidance"],
        {"scale": 4.0},
        {"scale": 4.0, "interval": (0.1, 1.0)},
        {"skip": {"blocks": [0], "scale": 2.0, "interval": (0.0, 0.5)}},
    ],
    ids=["parts", "scale", "interval", "skip"],
)
def test_a_step_that_passes_an_end_of_time_is_guided_as_the_end_is(guidance: dict[str, object]) -> None:
    model = Counted()
    velocity = guided(model, **guidance)
    velocity.skipping = lambda z, t, labels: torch.zeros_like(z)
    for beyond, end in ((1.2, 1.0), (-0.2, 0.0)):
        assert torch.equal(velocity.at(Z, beyond), velocity.at(Z, end))


@pytest.mark.parametrize(
    "number",
    [2, 2.0, np.float32(2), np.float64(2), np.arange(1, 4)[1], np.array(2), torch.tensor(2.0), torch.tensor(2)],
    ids=lambda number: f"{type(number).__name__}-{getattr(number, 'dtype', '')}",
)
def test_a_number_of_any_library_is_the_scale(number: object) -> None:
    assert parse_config(Guidance, number, "guidance") == Guidance(scale=2.0)


@pytest.mark.parametrize("other", [True, np.array(True), torch.tensor([2.0]), "2", np.array(1j)], ids=str)
def test_what_is_no_number_is_no_scale(other: object) -> None:
    with pytest.raises(FAEError):
        parse_config(Guidance, other, "guidance")


def test_the_formula() -> None:
    velocity = guided(Counted(), scale=3.0).at(Z, 0.5)
    assert velocity[:, 0, 0, 0].tolist() == [1 + 3 * (5 - 1), 1 + 3 * (7 - 1)]


def test_scale_zero_is_unconditional() -> None:
    assert guided(Counted(), scale=0.0).at(Z, 0.5)[:, 0, 0, 0].tolist() == [1.0, 1.0]


def test_only_the_first_channels_are_guided() -> None:
    velocity = guided(Counted(), scale=3.0, channels=3).at(Z, 0.5)
    assert velocity[0, :, 0, 0].tolist() == [13.0, 13.0, 13.0, 5.0]


def test_one_batched_call_inside_and_a_plain_one_outside() -> None:
    model = Counted()
    integrate(guided(model, scale=2.0, interval=(0.25, 0.75)), Z, [1.0, 0.8, 0.75, 0.5, 0.25, 0.1, 0.0])
    assert model.rows == [2, 2, 4, 4, 4, 2]


def test_scale_one_never_asks_for_the_null_condition() -> None:
    model = Counted()
    velocity = GuidedVelocity(model, torch.tensor([5, 7]), Guidance(), null=None)
    integrate(velocity, Z, time_grid(3))
    assert model.rows == [2, 2, 2]


def test_autoguidance_pushes_away_from_the_weak_model() -> None:
    strong, weak = Counted(), Counted()
    velocity = GuidedVelocity(
        strong, torch.tensor([5, 7]), Guidance(scale=2.0), weak=lambda z, t, c: 0.5 * weak(z, t, c)
    ).at(Z, 0.5)
    assert velocity[:, 0, 0, 0].tolist() == [7.5, 10.5]
    assert strong.rows == weak.rows == [2]


def test_guidance_by_skipped_blocks_is_added_to_the_other_in_its_interval() -> None:
    guidance = Guidance(scale=3.0, interval=(0.0, 0.6), skip={"blocks": [1], "scale": 2.0, "interval": (0.4, 0.8)})
    model, skipping = Counted(), Counted()
    condition, null = torch.tensor([5, 7]), torch.tensor([1, 1])
    velocity = GuidedVelocity(model, condition, guidance, null=null, skipping=lambda z, t, c: 0.5 * skipping(z, t, c))
    found = [velocity.at(Z, t)[0, 0, 0, 0].item() for t in (0.9, 0.7, 0.5, 0.2)]
    assert found == [5.0, 5.0 + 2 * 2.5, 13.0 + 2 * 2.5, 13.0]
    assert model.rows == [2, 2, 4, 4] and skipping.rows == [2, 2]


@torch.no_grad()
@pytest.mark.parametrize("head", [None, {"width": 32, "depth": 1, "heads": 2}])
def test_a_skipped_block_is_as_one_that_adds_nothing(head: dict | None) -> None:
    spec = LatentSpec(4, 4, 4, 32, "made up")
    model = LightningDiT.from_preset("lightningdit-tiny", spec=spec, seed=0, depth=3, classes=2, head=head)
    for parameter in model.parameters():
        parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    z, labels = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    last = len(model.blocks) - 1
    skipped = model.velocity(z, 0.5, labels, skip=(last,))
    assert not torch.allclose(skipped, model.velocity(z, 0.5, labels), atol=1e-3)
    without = copy.deepcopy(model)
    del without.blocks[last]
    torch.testing.assert_close(skipped, without.velocity(z, 0.5, labels))
    guidance = {"skip": {"blocks": [last], "scale": 1.5}}
    ours = model.sample(labels, noise=z, steps=1, guidance=guidance)
    v = model.velocity(z, 1.0, labels)
    theirs = z - (v + 1.5 * (v - model.velocity(z, 1.0, labels, skip=(last,))))
    torch.testing.assert_close(ours, theirs)
    with pytest.raises(FAEError, match=f"this network has {last + 1}"):
        model.sample(labels, noise=z, guidance={"skip": {"blocks": [last + 1], "scale": 1.5}})


def test_a_number_is_a_scale() -> None:
    assert Guidance.model_validate(2.5) == Guidance(scale=2.5)
    assert not Guidance().is_on and Guidance(scale=2.0).is_on and Guidance(**yaml.safe_load(PAPER)["guidance"]).is_on


@pytest.mark.parametrize(
    "fields",
    [
        {"interval": (0.7, 0.2)},
        {"parts": [[0.7, 0.9, 2.0]]},
        {"parts": [[1.0, 0.5, 2.0], [0.6, 0.0, 1.0]]},
        {"parts": [[1.0, 0.5, 2.0]], "scale": 3.0},
        {"scale": float("nan")},
        {"scales": 2.0},
        {"skip": {"blocks": [], "scale": 2.0}},
        {"skip": {"blocks": [1], "scale": 2.0, "interval": (0.5, 0.5)}},
    ],
)
def test_schedules_that_make_no_sense_are_refused(fields: dict) -> None:
    with pytest.raises(FAEError):
        parse_config(Guidance, fields, "guidance")
