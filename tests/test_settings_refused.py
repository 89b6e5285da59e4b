"""A setting that nobody reads is refused with the nearest name, at every depth, before anything is read, built or
written."""

from __future__ import annotations

from pathlib import Path

import pytest

from fae_core.cli.main import main

TRAININGS = {
    "diffusion": "--latents nowhere",
    "flow": "--latents nowhere",
    "vae": "--data nowhere",
    "autoencoder": "--data nowhere",
    "pixel": "--data nowhere --encoder fae-tiny",
}


def refusal(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize("stage", TRAININGS)
@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("trainig.steps", "unknown section of the settings 'trainig'; did you mean training"),
        ("mdoel.width", "unknown section of the settings 'mdoel'; did you mean model"),
        ("training.stesp", "training settings: stesp: .*did you mean steps"),
        ("training.lerning_rate", "training settings: lerning_rate: .*did you mean learning_rate"),
        ("description", "unknown section of the settings 'description'"),
        ("spec.channels", "unknown section of the settings 'spec'"),
    ],
)
def test_a_misspelt_set_is_refused(stage: str, key: str, hint: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["train", stage, *TRAININGS[stage].split(), "--out", "out", "--set", f"{key}=5"]
    import re

    assert re.search(hint, refusal(capsys, *arguments))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", TRAININGS)
def test_a_misspelt_file_is_refused(stage: str, tmp_path: Path, capsys) -> None:
    arguments = [
        "train",
        stage,
        *TRAININGS[stage].split(),
        "--out",
        f"{tmp_path}/out",
        "--config",
        f"{tmp_path}/c.yaml",
    ]
    for text, hint in (
        ("trainning: {steps: 5}", "unknown section of the settings 'trainning'; did you mean training?"),
        ("training: {steps: 5}\ntraining: {steps: 6}", "the key 'training' is there twice"),
        ("training: {steps: 5, seed: 1, steps: 6}", "the key 'steps' is there twice"),
        ("training: {steps: 5, kep_checkpoints: 1}", "did you mean keep_checkpoints"),
        ("training: [steps]", "the section training must be a mapping"),
        ("model_type: sti", "sti"),
    ):
        (tmp_path / "c.yaml").write_text(text)
        assert hint in refusal(capsys, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize(
    ("stage", "key", "hint"),
    [
        ("diffusion", "model.wdith", "did you mean width"),
        ("diffusion", "model.sampling.stpes", "sampling.stpes: .*did you mean steps"),
        ("diffusion", "model.transport.predictoin", "did you mean prediction"),
        ("diffusion", "preview.decodr", "did you mean decoder"),
        ("diffusion", "autoencoder.beta", "unknown section"),
        ("flow", "model.blokcs", "blokcs: "),
        ("vae", "model.chanels", "did you mean channels"),
        ("vae", "vae.losses.percptual", "losses.percptual: .*did you mean perceptual"),
        ("vae", "autoencoder.beta", "unknown section"),
        ("autoencoder", "model.dephth", "did you mean depth"),
        ("autoencoder", "autoencoder.btea", "did you mean beta"),
        ("autoencoder", "autoencoder.data.statistics_image", "did you mean statistics_images"),
        ("pixel", "model.dephth", "did you mean depth"),
        ("pixel", "noise.losses.l3", "did you mean l"),
        ("pixel", "finetune.losses.l1", "unknown section of the settings 'finetune'"),
    ],
)
def test_misspelt_names_are_refused_at_every_depth_before_a_model_is_built(
    stage: str, key: str, hint: str, tmp_path: Path, capsys
) -> None:
    import re

    arguments = ["train", stage, *TRAININGS[stage].split(), "--out", f"{tmp_path}/out", "--set", f"{key}=5"]
    error = refusal(capsys, *arguments)
    assert re.search(hint, error) and "nowhere" not in error, "the data were looked for before the settings"
    assert not list(tmp_path.iterdir())


def test_a_text_model_is_no_exception(tmp_path: Path, capsys) -> None:
    common = ["train", "diffusion", "--latents", "nowhere", "--out", f"{tmp_path}/out", "--preset", "mmdit-tiny"]
    for override, hint in (
        ("trainig.steps=5", "did you mean training?"),
        ("training.stesp=5", "did you mean steps"),
        ("model.wdith=5", "did you mean width"),
        ("preview.decodr=x", "did you mean decoder"),
    ):
        error = refusal(capsys, *common, "--set", override)
        assert hint in error and "nowhere" not in error
    assert "leave it out" in refusal(capsys, *common[:-2], "--text-cache", "x")


@pytest.mark.parametrize("kind", ["sit", "lightningdit", "mmdit", "starflow"])
def test_importers_refuse_arguments_that_the_original_does_not_have(kind: str, tmp_path: Path, capsys) -> None:
    import torch

    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "a.pt")
    (tmp_path / "c.yaml").write_text("depht: 2\n")
    error = refusal(
        capsys, "import", kind, f"{tmp_path}/a.pt", "--out", f"{tmp_path}/out", "--config", f"{tmp_path}/c.yaml"
    )
    assert "depht" in error and not (tmp_path / "out").exists()


def test_settings_that_a_stage_does_not_use_are_refused(tmp_path: Path, capsys) -> None:
    pixel = ["train", "pixel", "--data", "nowhere", "--out", f"{tmp_path}/out", "--init", "nowhere"]
    assert "leave --set model... out" in refusal(capsys, *pixel, "--set", "model.width=5")
    assert "for stage noise" in refusal(capsys, *pixel, "--stage", "finetune", "--weights", "random")
    assert "those of a 'sit', not of a conv-vae" in refusal(
        capsys, "train", "vae", "--data", "nowhere", "--out", f"{tmp_path}/out", "--config", str(written(tmp_path))
    )


def written(folder: Path) -> Path:
    (folder / "sit.yaml").write_text("model_type: sit\nmodel: {image_size: 16, channels: 8}\n")
    return folder / "sit.yaml"


def test_a_preset_s_own_file_is_a_config(tmp_path: Path, capsys) -> None:
    """What describes a preset (description, parameters, paper, spec) is no setting, and no mistake either."""
    from fae_core.cli.settings import resolve_settings
    from fae_core.models.presets import load_preset, preset_files

    for name in ("lightningdit-tiny", "pixel-decoder-tiny", "conv-vae-tiny", "starflow-tiny", "feature-decoder-tiny"):
        kind = load_preset(name)["model_type"]
        sections = ("model", "training", "preview", "encoder", "noise", "finetune", "vae", "autoencoder")
        from_file = resolve_settings(None, preset_files()[name], None, kind, sections=sections)
        assert from_file == resolve_settings(name, None, None, kind, sections=sections)
        assert "description" not in from_file and "model" in from_file
