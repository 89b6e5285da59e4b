"""Every preset: it builds, is as large as it says, and its training settings are valid."""

from __future__ import annotations

import pytest
import torch

from fae_core.config import parse_config
from fae_core.models.presets import load_preset, preset_files
from fae_core.spec import LatentSpec
from fae_core.training import TrainConfig
from fae_diffusion import LightningDiT, MMDiT, SiT

CLASSES = {"sit": SiT, "lightningdit": LightningDiT, "mmdit": MMDiT}
NAMES = sorted(name for name, path in preset_files().items() if path.parents[1].name == "fae_diffusion")


@pytest.mark.parametrize("name", NAMES)
def test_preset_has_the_parameters_that_it_states(name: str) -> None:
    preset = load_preset(name)
    with torch.device("meta"):
        model = CLASSES[preset["model_type"]].from_preset(name)
    count = sum(p.numel() for p in model.parameters())
    assert count == preset["parameters"]
    parse_config(TrainConfig, preset["training"], name)


def test_the_paper_s_model_counts_its_fixed_table() -> None:
    assert load_preset("lightningdit-xl")["parameters"] == 675_256_736  # printed as 675.26 M


def test_the_ladder_adds_one_thing_at_a_time() -> None:
    names = ("sit-xl", "sit-xl-swiglu", "sit-xl-swiglu-rope", "lightningdit-xl")
    rungs = [CLASSES[load_preset(n)["model_type"]].config_class.model_validate(load_preset(n)["model"]) for n in names]
    options = [(r.swiglu, r.rope, r.rms_norm) for r in rungs]
    assert options == [(False,) * 3, (True, False, False), (True, True, False), (True,) * 3]
    assert len({(r.width, r.depth, r.heads, r.patch_size, r.class_dropout) for r in rungs}) == 1


def test_lightningdit_s_own_training_differs_in_times_and_loss_alone() -> None:
    """Its configurations have use_lognorm and use_cosine_loss."""
    paper, official = load_preset("lightningdit-xl"), load_preset("lightningdit-xl-official")
    transport = paper["model"].pop("transport")
    assert official["model"].pop("transport") == {**transport, "time": "logit_normal", "cosine": 1.0}
    sections = ("model", "training", "spec", "parameters")
    assert [paper[name] for name in sections] == [official[name] for name in sections]


@pytest.mark.parametrize("name", [name for name in NAMES if "paper" in load_preset(name)])
def test_presets_of_the_paper_draw_uniform_times_and_have_no_cosine_term(name: str) -> None:
    """Open in the paper; the same for all, so that table 6's rungs differ in the network alone."""
    preset = load_preset(name)
    transport = CLASSES[preset["model_type"]].config_class.model_validate(preset["model"]).transport
    assert (transport.time, transport.cosine) == ("uniform", 0.0)


def test_a_preset_is_bound_to_any_latent_space() -> None:
    spec = LatentSpec(8, 6, 10, (96, 160), "toy/backbone")
    model = LightningDiT.from_preset("lightningdit-tiny", spec=spec, classes=4, patch_size=2)
    assert model(torch.zeros(1, *spec.shape), 0.5, torch.tensor([3])).shape == (1, *spec.shape)
