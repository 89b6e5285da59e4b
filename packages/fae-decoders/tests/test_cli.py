"""The commands, from images to a reconstruction report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_fae import Gradients

from fae_core.cli.main import invoke
from fae_core.errors import FAEError, OutputExists, UnknownName
from fae_decoders import FAE, PixelDecoder
from fae_decoders.cli.stage import stage_settings

SHORT = ("--steps", "4", "--device", "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    source = Gradients(6)
    for i in range(len(source)):
        source.read(i).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"not an image")
    return folder


def test_three_stages_and_a_reconstruction(data: Path, tmp_path: Path, caplog) -> None:
    run = {name: tmp_path / name for name in ("autoencoder", "noise", "fae", "reconstruction")}
    images = ("--data", str(data))
    tiny = (
        "--preset",
        "feature-decoder-tiny",
        "--set",
        "encoder.channels=4",
        "--set",
        "encoder.standardize_features=true",
    )
    invoke(["train", "autoencoder", *images, "--out", str(run["autoencoder"]), *tiny, *SHORT])
    assert "broken.png" in caplog.text
    pixel = [
        "train",
        "pixel",
        *images,
        "--preset",
        "pixel-decoder-tiny",
        *SHORT,
        "--autoencoder",
        str(run["autoencoder"]),
    ]
    invoke([*pixel, "--out", str(run["noise"])])
    assert PixelDecoder.from_pretrained(run["noise"]).config.noise_sigma == pytest.approx(0.4, rel=1e-3)
    invoke([*pixel, "--stage", "finetune", "--init", str(run["noise"]), "--out", str(run["fae"])])
    assert FAE.from_pretrained(run["fae"]).spec.channels == 4
    invoke(["reconstruct", "--model", str(run["fae"]), *images, "--out", str(run["reconstruction"]), "--files"])
    record = json.loads((run["reconstruction"] / "results" / "reconstruction.json").read_text())
    assert record["kind"] == "reconstruction"
    assert set(record) >= {"kind", "title", "table", "figures", "notes", "warnings", "provenance"}
    assert 0 < record["values"]["PSNR [dB]"] < 60
    assert (run["reconstruction"] / "results" / record["figures"][0]["path"]).is_file()
    assert len(list((run["reconstruction"] / "images").glob("*.png"))) == 6


def test_reconstruction_numbers_do_not_depend_on_the_batch(finetune_run: Path, tmp_path: Path) -> None:
    from fae_decoders.reconstruction import Reconstruction

    fae = FAE.from_pretrained(finetune_run)
    one, five = (
        Reconstruction(fae, Gradients(5), size, "cpu").run(tmp_path / str(size), pairs=2, files=False, facts={})
        for size in (1, 5)
    )
    assert one["values"] == pytest.approx(five["values"], rel=1e-4)


def test_mistakes_get_one_clear_line(data: Path, noise_run: Path, tmp_path: Path) -> None:
    common = ["train", "pixel", "--data", str(data), "--out", str(tmp_path / "run"), "--preset", "pixel-decoder-tiny"]
    with pytest.raises(FAEError, match=r"needs --autoencoder .* and --init"):
        invoke([*common, "--stage", "finetune"])
    with pytest.raises(UnknownName, match="did you mean noise"):
        invoke([*common, "--set", "noize.sigma=1"])
    with pytest.raises(UnknownName, match="did you mean pixel-decoder-tiny"):
        invoke([*common[:-1], "pixel-decoder-tyni"])
    with pytest.raises(FAEError, match=r"noise settings: sigma"):
        invoke([*common, "--set", "noise.sigma=-1"])
    assert not (tmp_path / "run").exists()
    with pytest.raises(OutputExists, match=r"--overwrite .* or --resume"):
        invoke([*common[:4], "--out", str(noise_run), "--preset", "pixel-decoder-tiny"])


def test_the_schedule_goes_with_the_number_of_steps() -> None:
    settings = stage_settings(
        "pixel-decoder",
        ("noise", "finetune"),
        "finetune",
        "pixel-decoder-demo",
        None,
        ["training.seed=3"],
        {"steps": 200},
    )
    training = settings["training"]
    assert (training["steps"], training["warmup_steps"], training["hold_steps"], training["seed"]) == (200, 4, 56, 3)
