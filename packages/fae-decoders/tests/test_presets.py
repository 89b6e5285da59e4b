"""Every preset builds without memory, and those of the paper have its parameter counts."""

from __future__ import annotations

import pytest
import torch

from fae_core.models.presets import load_preset, preset_files
from fae_decoders import ConvVAE, FeatureDecoder, PixelDecoder

MODELS = {"conv-vae": ConvVAE, "feature-decoder": FeatureDecoder, "pixel-decoder": PixelDecoder}
PRESETS = sorted(name for name in preset_files() if load_preset(name).get("model_type") in MODELS)


def count(name: str, **overrides: object) -> int:
    with torch.device("meta"):
        model = MODELS[load_preset(name)["model_type"]].from_preset(name, **overrides)
    assert all(p.is_meta for p in model.parameters())
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_preset_builds_on_meta_and_has_its_stated_count(name: str) -> None:
    assert count(name) == load_preset(name)["parameters"]


@pytest.mark.parametrize(
    ("name", "final_norm", "parameters", "printed"),
    [
        ("feature-decoder-1536", False, 170_426_880, 170.43),
        ("feature-decoder-1536", True, 170_428_416, 170.43),
        ("pixel-decoder-l", False, 305_358_848, 305.36),
        ("pixel-decoder-l", True, 305_360_896, 305.36),
    ],
)
def test_paper_models_have_the_printed_size(name: str, final_norm: bool, parameters: int, printed: float) -> None:
    counted = count(name, final_norm=final_norm)
    assert counted == parameters
    assert round(counted / 1e6, 2) == printed
