"""A generator's kept checkpoints are sampled and described as models of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fae_core.bundle.card import training_history
from fae_core.commands.groups import invoke
from fae_core.models.load import load_generator


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("line")
    chance = np.random.default_rng(0)
    for i in range(6):
        folder = root / "data" / ("dark", "light")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = chance.integers(0, 128, (32, 32, 3)) + 127 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    brief = "--steps 4 --batch-size 4 --device cpu"
    for words in (
        f"train vae --data {root}/data --preset conv-vae-tiny {brief} --steps 1 --out {root}/vae",
        f"encode --data {root}/data --model {root}/vae --out {root}/latents",
        f"train diffusion --latents {root}/latents --preset lightningdit-tiny {brief} --out {root}/diffusion "
        "--set training.keep_at=[2ep,1]",
        f"train flow --latents {root}/latents --preset starflow-tiny {brief} --out {root}/flow "
        "--set training.keep_at=[2]",
    ):
        invoke(words.split())
    return root


@pytest.mark.parametrize("model", ["diffusion/exports/step-3", "flow/exports/step-2"])
def test_a_kept_model_is_sampled_and_described(
    model: str, line: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = line / model
    invoke(f"sample --generator {generator} --decoder {line}/vae --out {tmp_path}/s --count 2 --device cpu".split())
    assert len(list((tmp_path / "s/images").iterdir())) == 2
    invoke(["info", str(generator)])
    assert f"{generator}" in capsys.readouterr().out
    kept, last = load_generator(generator), load_generator(generator.parents[1])
    assert any(not torch.equal(value, last.state_dict()[name]) for name, value in kept.state_dict().items())
    assert kept.class_names == last.class_names == ("dark", "light") and kept.spec == last.spec


def test_the_card_of_a_bundle_says_how_long_its_kept_model_was_trained(line: Path) -> None:
    [facts] = training_history(line / "diffusion/exports/step-3", "generator")
    assert facts["steps"] == 3 and facts["command"] == "fae train diffusion"
