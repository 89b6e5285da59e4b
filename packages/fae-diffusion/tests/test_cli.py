"""`fae train diffusion` on a small latent store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from fae_core.commands.groups import invoke
from fae_core.errors import DataError
from fae_core.latent_store import write_store
from fae_core.models.load import load_generator
from fae_core.models.presets import load_preset
from fae_core.spec import LatentSpec
from fae_core.testing import toy_latents
from fae_core.training import TrainConfig
from fae_diffusion import LightningDiT, MMDiT
from fae_diffusion.samplers.config import sampling_with

SPEC = LatentSpec(4, 2, 2, 32, "toy/backbone", fingerprint="toy")


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    z, labels = toy_latents(SPEC, 48)
    write_store(tmp_path / "latents", SPEC, z, labels=labels.tolist(), classes=["a", "b", "c"])
    return tmp_path / "latents"


def test_training_writes_a_model_that_has_learned_its_classes(latents: Path, tmp_path: Path) -> None:
    sets = "--set model.width=32 --set training.log_every=50 --set training.learning_rate=0.003"
    command = f"train diffusion --latents {latents} --out {tmp_path}/run --preset lightningdit-tiny --device cpu {sets}"
    invoke([*command.split(), "--steps", "300", "--batch-size", "24"])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    quarters = [rows[-1][f"loss_q{i}"] for i in range(1, 5)]
    assert sum(quarters) / 4 == pytest.approx(rows[-1]["loss"], rel=1e-4)
    model = load_generator(tmp_path / "run", spec=SPEC)
    assert model.config.classes == 3
    z, labels = toy_latents(SPEC, 3)
    noise = torch.randn(3, *SPEC.shape, generator=torch.Generator().manual_seed(0))
    samples = model.sample(labels, noise=noise, steps=20)
    distances = torch.cdist(samples.flatten(1), z.flatten(1))
    assert distances.argmin(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("sets", ["", "--set model.classes=3"])
def test_classes_that_are_numbered_from_1_are_refused_before_a_folder_is_made(tmp_path: Path, sets: str) -> None:
    z, labels = toy_latents(SPEC, 12)
    write_store(tmp_path / "latents", SPEC, z, labels=(labels + 1).tolist())
    command = f"train diffusion --latents {tmp_path}/latents --out {tmp_path}/run --preset lightningdit-tiny {sets}"
    with pytest.raises(DataError, match="number classes from 0"):
        invoke([*command.split(), "--device", "cpu"])
    assert not (tmp_path / "run").exists()


def test_a_preset_of_another_kind_is_refused(latents: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="trains lightningdit, sit"):
        invoke(
            [
                "train",
                "diffusion",
                "--latents",
                str(latents),
                "--out",
                str(tmp_path / "run"),
                "--set",
                "model_type=starflow",
            ]
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(latents: Path, tmp_path: Path) -> None:
    """At the same global batch: times, noise, dropped labels and the order of samples belong to the batch's slots."""
    curves = []
    for name, processes in (("one", "1"), ("two", "2")):
        command = f"train diffusion --latents {latents} --out {tmp_path}/{name} --preset lightningdit-tiny --device cpu"
        sets = "--set model.width=16 --set model.depth=1 --set training.log_every=1 --set training.learning_rate=0.003"
        invoke([*command.split(), *sets.split(), "--steps", "6", "--batch-size", "8", "--processes", processes])
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        curves.append([[row[key] for key in ("loss", "loss_q1", "loss_q4", "gradient_norm")] for row in rows])
    assert len(curves[0]) == 6 and curves[0][0][0] != curves[0][5][0]
    torch.testing.assert_close(torch.tensor(curves[1]), torch.tensor(curves[0]), atol=1e-5, rtol=1e-4)


def test_info_prints_the_settings_of_training_and_sampling_with_their_defaults(capsys) -> None:
    invoke(["info", "lightningdit-tiny"])
    printed = yaml.safe_load(capsys.readouterr().out.partition("\n\n")[2])
    assert load_preset("lightningdit-tiny")["training"].items() <= printed["training"].items()
    assert printed["model"]["width"] == 64 and printed["model"]["sampling"]["steps"] == 10
    assert printed["training"]["betas"] == list(TrainConfig.model_fields["betas"].default)
    assert (
        printed["model"]["sampling"]["method"] == "euler" and printed["model"]["transport"]["prediction"] == "velocity"
    )


@pytest.mark.parametrize(("preset", "scales"), [("lightningdit-xl", [0.9, 1.0, 2.5]), ("mmdit-256", [1.5])])
def test_info_prints_what_each_name_of_sampling_takes(preset: str, scales: list[float], capsys) -> None:
    """As `fae sample --sampling NAME` resolves it: the preset's own settings with those of the name over them."""
    invoke(["info", preset])
    printed = yaml.safe_load(capsys.readouterr().out.partition("\n\n")[2])["sampling"]
    model_class = {"lightningdit-xl": LightningDiT, "mmdit-256": MMDiT}[preset]
    own = model_class.config_class.model_validate(load_preset(preset)["model"]).sampling
    for name, options in model_class.named_sampling.items():
        assert printed[name] == sampling_with(own, options).model_dump(mode="json")
    guided, unguided = printed["paper-guided"], printed["paper-unguided"]
    assert (unguided["method"], unguided["steps"], unguided["guidance"]["scale"]) == ("sde", 250, 1.0)
    assert (guided["method"], guided["steps"]) == ("euler", 250)
    assert [part[2] for part in guided["guidance"]["parts"] or [[0, 0, guided["guidance"]["scale"]]]] == scales
