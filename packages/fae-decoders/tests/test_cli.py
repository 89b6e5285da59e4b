"""The commands, from images to a reconstruction report."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_fae import Gradients

from fae_core.commands.groups import invoke
from fae_core.errors import FAEError, InvalidFile, OutputExists, UnknownName
from fae_core.latent_store import LatentStore
from fae_core.models.presets import load_preset
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


def test_a_pixel_stage_is_not_resumed_on_other_parts_under_the_same_paths(data: Path, tmp_path: Path) -> None:
    """--autoencoder and --init are known by their weights: moved ones go on, changed ones are refused."""
    tiny = f"--data {data} --steps 2 --device cpu --set training.checkpoint_every=1 --set training.ema_decay=null"
    parts = {name: tmp_path / name for name in ("autoencoder", "noise", "fae")}
    encoder = "--preset feature-decoder-tiny --set encoder.channels=4"
    invoke(f"train autoencoder {tiny} {encoder} --out {parts['autoencoder']}".split())
    pixel = f"train pixel {tiny} --preset pixel-decoder-tiny"
    invoke(f"{pixel} --autoencoder {parts['autoencoder']} --out {parts['noise']}".split())

    def finetune(autoencoder: Path, init: Path) -> None:
        words = f"--stage finetune --autoencoder {autoencoder} --init {init} --out {parts['fae']} --resume"
        invoke(f"{pixel} {words}".split())

    finetune(parts["autoencoder"], parts["noise"])
    finetune(
        shutil.copytree(parts["autoencoder"], tmp_path / "moved"), shutil.copytree(parts["noise"], tmp_path / "other")
    )
    decoder = PixelDecoder.from_pretrained(parts["noise"])
    fae = FAE.from_pretrained(parts["autoencoder"])
    with torch.no_grad():
        next(decoder.parameters()).add_(1e-3)
        next(fae.feature_decoder.parameters()).add_(1e-3)
    decoder.save_pretrained(tmp_path / "other" / "model", overwrite=True)
    with pytest.raises(InvalidFile, match="other init"):
        finetune(parts["autoencoder"], tmp_path / "other")
    fae.save_pretrained(tmp_path / "moved" / "model", overwrite=True)
    with pytest.raises(InvalidFile, match="other feature decoder"):
        finetune(tmp_path / "moved", parts["noise"])


def test_reconstruction_numbers_do_not_depend_on_the_batch(finetune_run: Path, tmp_path: Path) -> None:
    from fae_decoders.reconstruction import Reconstruction

    fae = FAE.from_pretrained(finetune_run)
    one, five = (
        Reconstruction(fae, Gradients(5), size, "cpu").run(tmp_path / str(size), pairs=2, files=False, facts={})
        for size in (1, 5)
    )
    assert one["values"] == pytest.approx(five["values"], rel=1e-4)


def test_the_seed_fixes_every_weight_of_decoder_and_discriminator(data: Path, tmp_path: Path) -> None:
    gan = ("--set", "noise.losses.adversarial=patchgan", "--set", "noise.losses.discriminator_width=8")
    for out in ("one", "two"):
        invoke(
            [
                "train",
                "pixel",
                "--data",
                str(data),
                "--preset",
                "pixel-decoder-tiny",
                *SHORT,
                *gan,
                "--out",
                str(tmp_path / out),
            ]
        )
    one, two = (load_file(tmp_path / out / "model" / "model.safetensors") for out in ("one", "two"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


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


def test_a_stage_goes_over_its_preset_and_the_command_over_both() -> None:
    stages = ("noise", "finetune")
    options = {"steps": 200, "batch_size": None}
    noise = stage_settings("pixel-decoder", stages, "noise", "pixel-decoder-demo", None, None, {})
    finetune = stage_settings(
        "pixel-decoder", stages, "finetune", "pixel-decoder-demo", None, ["training.seed=3"], options
    )
    assert noise["training"]["learning_rate"] == 2.5e-3
    assert finetune["training"]["learning_rate"] == 1.5e-3
    assert (finetune["training"]["steps"], finetune["training"]["seed"], finetune["training"]["batch_size"]) == (
        200,
        3,
        8,
    )
    assert "training" not in finetune["finetune"]


def test_training_from_shards_passes_over_bad_images_and_continues_at_the_exact_sample(
    data: Path, tmp_path: Path, caplog, monkeypatch
) -> None:
    """Shards larger than memory: images are read in each step, by blocks, and nothing is surveyed before."""
    monkeypatch.setenv("FAE_CACHE", str(tmp_path / "cache"))
    for shard in range(3):
        with tarfile.open(tmp_path / f"s-{shard}.tar", "w") as archive:
            for i, path in enumerate(sorted(data.iterdir())):
                archive.add(path, f"{shard}{i}.png")
    arguments = ["train", "autoencoder", "--data", f"{tmp_path}/s-{{0..2}}.tar", "--preset", "feature-decoder-tiny"]
    arguments += ["--device", "cpu", "--steps", "6", "--batch-size", "4", "--set", "autoencoder.data.cache_gb=0"]
    arguments += ["--set", "training.shuffle_window=8", "--set", "training.checkpoint_every=2"]
    invoke([*arguments, "--out", str(tmp_path / "whole")])
    assert "broken" not in caplog.text and "cannot be read" not in caplog.text.split("takes its place")[-1]
    assert "the next one takes its place" in caplog.text
    invoke([*arguments, "--out", str(tmp_path / "again")])
    for name in ("step-00000006", "step-00000004"):  # as if the run had been killed between steps 2 and 4
        shutil.rmtree(tmp_path / "again" / "checkpoints" / name, ignore_errors=True)
    shutil.copytree(
        tmp_path / "whole" / "checkpoints" / "step-00000004", tmp_path / "again" / "checkpoints" / "step-00000004"
    )
    shutil.rmtree(tmp_path / "again" / "model")
    invoke([*arguments, "--out", str(tmp_path / "again"), "--resume"])
    whole, again = (
        load_file(tmp_path / run / "model" / "feature_decoder" / "model.safetensors") for run in ("whole", "again")
    )
    torch.testing.assert_close(again, whole, atol=0, rtol=0)


def test_set_goes_over_the_options_of_a_stage(data: Path, tmp_path: Path) -> None:
    images = ["--data", str(data), "--preset", "conv-vae-tiny", "--device", "cpu", "--batch-size", "2"]
    invoke(["train", "vae", *images, "--out", f"{tmp_path}/vae", "--steps", "5", "--set", "training.steps=1"])
    assert yaml.safe_load((tmp_path / "vae" / "config.yaml").read_text())["training"]["steps"] == 1


def test_finetuning_takes_the_preset_of_the_run_that_it_starts_from(data: Path, tmp_path: Path) -> None:
    runs = {name: tmp_path / name for name in ("autoencoder", "noise", "fae")}
    brief = f"--data {data} --steps 1 --batch-size 2 --device cpu"
    encoder = "--preset feature-decoder-tiny --set encoder.channels=4"
    invoke(f"train autoencoder {brief} {encoder} --out {runs['autoencoder']}".split())
    pixel = f"train pixel {brief} --autoencoder {runs['autoencoder']}"
    invoke(f"{pixel} --preset pixel-decoder-tiny --out {runs['noise']}".split())
    invoke(f"{pixel} --stage finetune --init {runs['noise']} --out {runs['fae']}".split())
    invoke(f"{pixel} --stage finetune --init {runs['noise']} --preset pixel-decoder-tiny --out {tmp_path}/same".split())
    taken, given = (yaml.safe_load((run / "config.yaml").read_text()) for run in (runs["fae"], tmp_path / "same"))
    assert taken["training"] == given["training"] and taken["finetune"] == given["finetune"]
    demo = load_preset("pixel-decoder-demo")
    assert taken["training"]["learning_rate"] != demo["training"]["learning_rate"]
    PixelDecoder.from_pretrained(runs["noise"]).save_pretrained(tmp_path / "decoder")
    with pytest.raises(FAEError, match="does not say which settings"):
        invoke(f"{pixel} --stage finetune --init {tmp_path}/decoder --out {tmp_path}/none".split())
    assert not (tmp_path / "none").exists()


def test_encoding_and_assembling_take_settings_of_an_encoder_preset(data: Path, tmp_path: Path) -> None:
    """So the features of a narrower backbone can be latents, too; both commands make the same random weights."""
    decoder = PixelDecoder.from_preset("pixel-decoder-tiny", feature_dim=48, grid=(16, 16), image_size=256)
    decoder.save_pretrained(tmp_path / "pixel")
    sizes = {"backbone.width": 48, "backbone.depth": 1, "backbone.heads": 2, "channels": 48}
    narrow = [
        "--weights",
        "random",
        *(word for key, value in sizes.items() for word in ("--set", f"encoder.{key}={value}")),
    ]
    encode = ["encode", "--data", str(data), "--out", str(tmp_path / "latents"), "--posterior", "mean"]
    invoke([*encode, "--model", "fae-dinov2-g-direct", *narrow])
    assemble = ["assemble", "--pixel", str(tmp_path / "pixel"), "--out", str(tmp_path / "fae")]
    invoke([*assemble, "--encoder", "fae-dinov2-g-direct", *narrow, "--statistics", str(tmp_path / "latents")])
    fae, store = FAE.from_pretrained(tmp_path / "fae"), LatentStore(tmp_path / "latents")
    assert store.spec.shape == (48, 16, 16)
    store.spec.require(fae.spec)
    with pytest.raises(FAEError, match="is taken as it is: --set is for an encoder preset"):
        invoke([*encode[:3], "--out", str(tmp_path / "more"), "--model", str(tmp_path / "fae"), *narrow[2:]])
    with pytest.raises(FAEError, match="belong to --encoder"):
        invoke([*assemble, "--autoencoder", str(tmp_path / "ae"), *narrow[2:]])
    for command in (encode[:3], [*assemble[:3], "--encoder", "fae-dinov2-g-direct"]):
        with pytest.raises(FAEError, match="did you mean channels"):
            invoke([*command, "--out", str(tmp_path / "more"), "--set", "encoder.chanels=4"])
