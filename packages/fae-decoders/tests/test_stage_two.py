"""Stage II goes on with the discriminator of stage Ib, and says so where it cannot."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tiny_fae import Gradients

from fae_core.commands.groups import invoke
from fae_core.errors import InvalidFile, InvalidSettings
from fae_core.models.checkpoints import numbered, read_tensors
from fae_decoders import PixelDecoder
from fae_decoders.losses import PixelLossConfig
from fae_decoders.stages.kept_discriminator import MOMENTS, WEIGHTS, discriminator_of

GAN = "--set {}.losses.adversarial=patchgan --set {}.losses.discriminator_width=8"
BRIEF = "--steps 3 --batch-size 2 --device cpu --set training.checkpoint_every=1"


def run(line: str) -> None:
    invoke(line.split())


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Images, a run of stage Ia, and two of stage Ib with a discriminator: one of 3 steps, one of 2."""
    root = tmp_path_factory.mktemp("parts")
    (root / "data").mkdir()
    for i in range(6):
        Gradients(6).read(i).save(root / "data" / f"{i}.png")
    run(f"train autoencoder --data {root}/data --preset feature-decoder-tiny {BRIEF} --out {root}/ae")
    noise = f"train pixel --data {root}/data --preset pixel-decoder-tiny --autoencoder {root}/ae {BRIEF} "
    run(f"{noise} {GAN.format('noise', 'noise')} --out {root}/pixel --set training.keep_at=[2]")
    run(f"{noise} --out {root}/plain")
    return {"data": root / "data", "ae": root / "ae", "pixel": root / "pixel", "plain": root / "plain"}


def finetune(parts: dict[str, Path], init: Path, out: Path, more: str = "", gan: str = GAN) -> dict:
    settings = gan.format("finetune", "finetune")
    run(
        f"train pixel --stage finetune --data {parts['data']} --autoencoder {parts['ae']} --init {init} --out {out} "
        f"--preset pixel-decoder-tiny {BRIEF} {settings} {more}"
    )
    return yaml.safe_load((out / "config.yaml").read_text())


def newest(folder: Path) -> Path:
    return list(numbered(folder / "checkpoints").values())[-1]


def moments(folder: Path, step: int) -> torch.Tensor:
    found = read_tensors(folder / f"checkpoints/step-{step:08d}", (MOMENTS,))
    return next(value for name, value in found.items() if name.endswith("/step"))


def test_weights_and_moments_go_on_and_their_starts_count_as_passed(parts: dict[str, Path], tmp_path: Path) -> None:
    late = tmp_path / "late.yaml"  # a recipe whose discriminator starts after the last step of either run
    late.write_text("finetune: {losses: {perceptual: none, discriminator_start: 20, adversarial_start: 25}}\n")
    settings = finetune(parts, parts["pixel"], tmp_path / "fae", f"--config {late} --set training.keep_checkpoints=9")
    losses = settings["finetune"]["losses"]
    assert (losses["discriminator_start"], losses["adversarial_start"]) == (0, 0)
    assert moments(parts["pixel"], 3) == 3
    assert [moments(tmp_path / "fae", step) for step in (1, 2, 3)] == [4, 5, 6]  # AdamW's own count goes on
    before, after = (read_tensors(newest(folder), (WEIGHTS,)) for folder in (parts["pixel"], tmp_path / "fae"))
    assert before.keys() == after.keys()
    moved = max((after[name] - value).abs().max() for name, value in before.items() if "noted" not in name)
    assert 0 < moved < 0.05  # three small updates away; a new one would differ by its initial weights
    fresh = finetune(
        parts, PixelDecoder.from_pretrained(parts["pixel"]).save_pretrained(tmp_path / "m"), tmp_path / "n"
    )
    assert "discriminator" not in fresh["identity"] and settings["identity"]["discriminator"]


def test_starts_given_by_hand_are_kept(parts: dict[str, Path], tmp_path: Path) -> None:
    more = "--set finetune.losses.discriminator_start=1 --set finetune.losses.adversarial_start=2"
    losses = finetune(parts, parts["pixel"], tmp_path / "fae", more)["finetune"]["losses"]
    assert (losses["discriminator_start"], losses["adversarial_start"]) == (1, 2)


@pytest.mark.parametrize("lost", [(2, 3), (1, 2, 3)])  # killed after the first checkpoint, and before it
def test_resuming_stage_two_is_exact_and_refuses_another_discriminator(
    lost: tuple[int, ...], parts: dict[str, Path], tmp_path: Path
) -> None:
    finetune(parts, parts["pixel"], tmp_path / "whole", "--set training.keep_checkpoints=9")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for step in lost:
        shutil.rmtree(tmp_path / f"cut/checkpoints/step-{step:08d}")
    shutil.rmtree(tmp_path / "cut/model")
    again = "--set training.keep_checkpoints=9 --resume"
    finetune(parts, parts["pixel"], tmp_path / "cut", again)
    whole, cut = (read_tensors(newest(tmp_path / name), ("",)) for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(value, cut[name]) for name, value in whole.items())
    shutil.copytree(parts["pixel"], tmp_path / "other")
    shutil.rmtree(newest(tmp_path / "other"))  # the same decoder, and an earlier discriminator
    with pytest.raises(InvalidFile, match="other discriminator"):
        finetune(parts, tmp_path / "other", tmp_path / "cut", again)
    shutil.rmtree(tmp_path / "other/checkpoints")
    with pytest.raises((InvalidFile, InvalidSettings), match="discriminator"):
        finetune(parts, tmp_path / "other", tmp_path / "cut", again)


def test_a_run_that_began_with_a_new_discriminator_keeps_it(parts: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(parts["pixel"], tmp_path / "pixel")
    shutil.rmtree(tmp_path / "pixel/checkpoints")
    finetune(parts, tmp_path / "pixel", tmp_path / "fae", "--set training.steps=2")
    shutil.copytree(parts["pixel"] / "checkpoints", tmp_path / "pixel/checkpoints")
    settings = finetune(parts, tmp_path / "pixel", tmp_path / "fae", "--set training.steps=2 --resume")
    assert "discriminator" not in settings["identity"]


@pytest.mark.parametrize("case", ["model folder", "none in Ib", "another network", "no checkpoint", "untrained"])
def test_a_new_discriminator_is_announced_in_one_line(
    case: str, parts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init, gan = parts["pixel"], GAN
    if case == "model folder":
        init = PixelDecoder.from_pretrained(init).save_pretrained(tmp_path / "decoder")
    elif case == "none in Ib":
        init = parts["plain"]
    elif case == "another network":
        gan = GAN.replace("=8", "=16")
    else:
        init = shutil.copytree(init, tmp_path / "pixel")
        if case == "no checkpoint":
            shutil.rmtree(init / "checkpoints")
        else:
            settings = yaml.safe_load((init / "config.yaml").read_text())
            settings["noise"]["losses"] |= {"discriminator_start": 3, "adversarial_start": 3}
            (init / "config.yaml").write_text(yaml.safe_dump(settings))
    finetune(parts, init, tmp_path / "fae", gan=gan)
    said = [line for line in capsys.readouterr().err.splitlines() if "the discriminator starts new" in line]
    assert len(said) == 1 and str(init) in said[0]


def test_an_export_brings_the_discriminator_of_its_step(parts: dict[str, Path]) -> None:
    losses = PixelLossConfig(adversarial="patchgan", discriminator_width=8)
    steps = {place: discriminator_of(parts["pixel"] / place, losses)[0] for place in ("", "model", "exports/step-2")}
    assert [path.name for path in steps.values()] == ["step-00000003", "step-00000003", "step-00000002"]


def test_a_damaged_newest_checkpoint_is_passed_over(parts: dict[str, Path], tmp_path: Path) -> None:
    run = shutil.copytree(parts["pixel"], tmp_path / "pixel")
    (newest(run) / "state.json").write_text("{}")
    losses = PixelLossConfig(adversarial="patchgan", discriminator_width=8)
    assert discriminator_of(run, losses)[0].name == "step-00000002"


def test_stage_two_takes_the_recipe_of_its_init(
    parts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    brief = "--steps 2 --batch-size 2 --device cpu"
    more = "--set training.learning_rate=0.003 --set noise.sigma=0.5 --set training.log_every=1"
    run(
        f"train pixel --data {parts['data']} --preset pixel-decoder-tiny --autoencoder {parts['ae']} {brief} {more} "
        f"{GAN.format('noise', 'noise')} --out {tmp_path}/pixel"
    )
    hint = capsys.readouterr().out.rpartition("next: ")[2].strip()
    plain = (
        f"train pixel --stage finetune --data {parts['data']} --autoencoder {parts['ae']} --init {tmp_path}/pixel "
        "--steps 1 --device cpu"
    )
    run(f"{plain} --out {tmp_path}/plain")
    assert "note: stage finetune takes the recipe" in capsys.readouterr().err
    run(f"{hint.removeprefix('fae ').replace('--out FAE', f'--out {tmp_path}/hint')} --steps 1 --device cpu")
    run(f"{plain} --batch-size 4 --out {tmp_path}/other")
    found = {name: yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("plain", "hint", "other")}
    for name in ("plain", "hint"):
        training, losses = found[name]["training"], found[name]["finetune"]["losses"]
        assert (training["learning_rate"], training["batch_size"], training["log_every"]) == (0.003, 2, 1)
        assert (losses["adversarial"], losses["discriminator_width"]) == ("patchgan", 8)
        assert found[name]["identity"]["discriminator"]
    assert found["plain"]["training"] == found["hint"]["training"]
    assert found["other"]["training"]["batch_size"] == 4
