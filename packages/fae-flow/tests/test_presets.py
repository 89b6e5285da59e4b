"""Presets build on the meta device, where a count of parameters costs nothing."""

from __future__ import annotations

import pytest
import torch

from fae_core.errors import InvalidFile
from fae_core.models.presets import load_preset
from fae_core.training import TrainConfig
from fae_flow import STARFlow, STARFlowConfig


def _count(name: str, **overrides: object) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in STARFlow.from_preset(name, **overrides).parameters())


def test_starflow_1b_has_the_papers_parameters_before_conditioning() -> None:
    assert _count("starflow-1b") == 1_411_223_936 == load_preset("starflow-1b")["parameters"]
    # One row per class and one for none, in the top block alone.
    assert _count("starflow-1b", classes=1000) == 1_411_223_936 + 1001 * 2048


@pytest.mark.parametrize(
    "name",
    [
        "starflow-tiny",
        "starflow-demo",
        "starflow-cifar10",
        "starflow-cifar10-cpu",
        "starflow-1b",
        "starflow-1b-released",
    ],
)
def test_every_preset_has_the_parameters_it_states_and_valid_training_settings(name) -> None:
    assert _count(name) == load_preset(name)["parameters"]
    TrainConfig.model_validate(load_preset(name)["training"])


def test_the_printed_count_does_not_tell_which_choices_the_paper_took() -> None:
    """Section 5.3 prints 1.4 B: a learned first token adds 192 parameters, a last norm 12,288."""
    assert _count("starflow-1b", sos=True) - _count("starflow-1b") == 192
    assert _count("starflow-1b", final_norm=True) - _count("starflow-1b") == 6 * 2048
    assert _count("starflow-1b-released") == _count("starflow-1b") + 192 + 6 * 2048
    assert {f"{_count(name) / 1e9:.1f}" for name in ("starflow-1b", "starflow-1b-released")} == {"1.4"}


def test_both_presets_train_the_paper_s_epochs() -> None:
    """400 epochs of ImageNet's 1,281,167 images."""
    paper, released = (load_preset(name)["training"] for name in ("starflow-1b", "starflow-1b-released"))
    assert paper == released
    assert paper["steps"] == round(400 * 1_281_167 / paper["batch_size"]) == 1_000_912


def test_the_released_preset_has_the_choices_of_the_released_image_configuration() -> None:
    """configs/starflow_3B_t2i_256x256.yaml; its sizes, text and rates are not taken."""
    plain, released = (load_preset(name)["model"] for name in ("starflow-1b", "starflow-1b-released"))
    assert {name: (plain[name], value) for name, value in released.items() if plain[name] != value} == {
        "sos": (False, True),
        "scale": ("exp", "softplus"),  # use_softplus
        "final_norm": (False, True),  # use_final_norm
        "soft_clip": (0.0, 4.0),
        "regularization": (0.0, 1e-4),  # latent_norm_regularization
        "order": ("R2L", "L2R"),  # seq_order
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": 3, "text_dim": 4}, "exclude each other"),
        ({"text_dim": 4}, "text_tokens"),
        ({"heads": 3, "kv_heads": 2}, "not a multiple"),
        ({"head_dim": 6}, "rotations"),
        ({"width": 32, "head_dim": 64}, "narrower"),
        ({"layers": (2, -1)}, "negative"),
    ],
)
def test_impossible_configurations_are_refused_with_a_reason(spec, fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        STARFlowConfig(**fields)


def test_a_bad_override_is_one_clear_line() -> None:
    with pytest.raises(InvalidFile, match="preset starflow-tiny: width"):
        STARFlow.from_preset("starflow-tiny", width=-1)
