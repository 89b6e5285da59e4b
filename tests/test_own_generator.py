"""examples/own-generator as its user has it: installed, described, conforming, trained, sampled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from page_runner import plugin
from PIL import Image
from torch import Tensor, nn

from fae_core.cli.training import labelled_task
from fae_core.commands.groups import invoke
from fae_core.config import Config
from fae_core.latent_store import LatentStore
from fae_core.models.pretrained import PretrainedModel
from fae_core.testing import GeneratorConformance
from fae_core.training import TrainConfig


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    with plugin("examples/own-generator"):
        yield


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of two classes, encoded by the bundle that the packages carry."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for name in ("clouds", "stones"):
        (folder / "data" / name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(
                folder / "data" / name / f"{number}.png"
            )
    invoke(["encode", "--data", str(folder / "data"), "--model", "cifar10", "--out", str(folder / "latents")])
    return folder / "latents"


class TestTheExampleConforms(GeneratorConformance):
    def make(self, spec):
        from patch_flow import PatchFlow, PatchFlowConfig

        return PatchFlow(PatchFlowConfig(width=32, depth=2, classes=self.classes or 1), spec)


def test_info_describes_its_preset(capsys: pytest.CaptureFixture[str]) -> None:
    invoke(["info", "patch-flow-small", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["type"] == "patch-flow"
    assert shown["settings"]["training"]["steps"] == 500


def test_it_trains_and_samples_through_the_commands(latents: Path, tmp_path: Path) -> None:
    named = ["--preset", "patch-flow-small", "--latents", str(latents), "--steps", "3"]
    invoke(["train", "patch-flow", *named, "--out", str(tmp_path / "run")])
    drawn = ["sample", "--generator", str(tmp_path / "run"), "--decoder", "cifar10", "--labels", "stones"]
    invoke([*drawn, "--count", "2", "--guidance", "1.5", "--set", "steps=3", "--out", str(tmp_path / "samples")])
    assert len(list((tmp_path / "samples" / "images").iterdir())) == 2
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["config"]["classes"] == 2


class UnconditionalConfig(Config):
    """Settings of Unconditional: none."""


class Unconditional(PretrainedModel[UnconditionalConfig]):
    """Learns one latent, knows no classes and no guidance."""

    model_type = "patch-flow"  # so that the suite finds something under this name
    config_class = UnconditionalConfig

    def __init__(self, config, spec) -> None:
        super().__init__(config, spec)
        self.mean = nn.Parameter(torch.zeros(spec.shape))

    def loss(self, z, condition, *, random=None) -> dict[str, Tensor]:
        self.spec.check(z)
        return {"loss": 2 * (z - self.mean).square().mean()}

    def sample(self, condition, *, noise=None, random=None) -> Tensor:
        return self.mean + (random.normal(self.spec.shape, "noise") if noise is None else noise)


class TestAModelWithoutClassesConforms(GeneratorConformance):
    classes = None
    guidance = None
    learning_rate = 3e-2

    def make(self, spec):
        return Unconditional(UnconditionalConfig(), spec)

    @pytest.fixture(autouse=True)
    def named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import patch_flow

        monkeypatch.setattr(patch_flow, "PatchFlow", Unconditional)


def test_a_model_without_classes_is_trained_on_a_store_with_labels(latents: Path) -> None:
    task, recorded = labelled_task(Unconditional, {}, LatentStore(latents), TrainConfig(), None)
    assert recorded == {"model": {}}
    assert torch.isfinite(task.generator.loss(*task.load([0, 7], None).values())["loss"])
