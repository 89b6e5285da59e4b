"""A resumed run needs the content it was started on: at another path it is accepted, other content is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from fae_core.commands.groups import invoke
from fae_core.commands.running import resumed_arguments
from fae_core.errors import FAEError, InvalidFile, InvalidSettings, LatentSpecMismatch, UnknownName
from fae_core.latent_store import write_store
from fae_core.models.bundles import bundle_folders
from fae_core.models.load import load_decoder, load_generator
from fae_core.spec import LatentSpec

SPEC = LatentSpec(4, 2, 2, 32, "timm/one", fingerprint="aaaa")
TRAIN = [
    "train",
    "diffusion",
    "--preset",
    "lightningdit-tiny",
    "--device",
    "cpu",
    "--batch-size",
    "4",
    "--set",
    "model.width=32",
    "--set",
    "model.depth=1",
    "--set",
    "training.checkpoint_every=2",
    "--set",
    "training.ema_decay=null",
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAE_CACHE", str(tmp_path / "cache"))


def store(path: Path, spec: LatentSpec = SPEC, seed: int = 0, **more: Any) -> Path:
    z = torch.randn(12, *spec.shape, generator=torch.Generator().manual_seed(seed))
    more = {"labels": [i % 3 for i in range(12)], "classes": ["a", "b", "c"], **more}
    write_store(path, spec, z, **more)
    return path


def train(latents: Path | str, out: Path, *more: str) -> None:
    invoke([*TRAIN, "--latents", str(latents), "--out", str(out), *more])


def begun(tmp_path: Path) -> tuple[Path, Path]:
    """A run that was cut off after step 2 of 4, and its store."""
    latents, out = store(tmp_path / "latents"), tmp_path / "run"
    train(latents, out, "--steps", "4")
    shutil.rmtree(sorted(out.glob("checkpoints/step-*"))[-1])
    shutil.rmtree(out / "model")
    return latents, out


def test_a_run_goes_on_with_its_store_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, out = begun(tmp_path)
    shutil.copytree(out, tmp_path / "other")
    latents.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    train("moved", out, "--steps", "4", "--resume")
    train(store(tmp_path / "encoded again"), tmp_path / "other", "--steps", "4", "--resume")
    for name in ("run", "other"):
        assert load_generator(tmp_path / name).spec == SPEC
    assert yaml.safe_load((out / "config.yaml").read_text())["data"] == "moved"


CHANGES = {
    "another space": ({"spec": LatentSpec(4, 2, 2, 32, "timm/two", fingerprint="bbbb")}, "backbone.*fingerprint"),
    "other statistics": ({"spec": SPEC.with_statistics([1.0] * 4, [2.0] * 4)}, "std"),
    "other latents": ({"seed": 1}, "other latents"),
    "other labels": ({"labels": [i % 2 for i in range(12)]}, "other latents"),
    "classes in another order": ({"classes": ["b", "a", "c"]}, "other latents"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_is_not_resumed_on_something_else(tmp_path: Path, change: str) -> None:
    latents, out = begun(tmp_path)
    shutil.rmtree(latents)
    more, message = CHANGES[change]
    store(latents, **more)
    kind = LatentSpecMismatch if "spec" in more else InvalidFile
    with pytest.raises(kind, match=message) as caught:
        train(latents, out, "--steps", "4", "--resume")
    assert "\n" not in str(caught.value)
    assert not (out / "model").exists()


def test_a_checkpoint_in_the_middle_knows_its_latent_space_without_the_store(tmp_path: Path) -> None:
    latents, out = begun(tmp_path)
    shutil.rmtree(latents)
    (kept,) = out.glob("checkpoints/step-*")
    assert load_generator(kept).spec == SPEC
    with pytest.raises(UnknownName, match="unknown option of a checkpoint 'devise'; did you mean device"):
        load_generator(kept, devise="cpu")


def test_more_steps_are_allowed_where_the_earlier_ones_would_have_been_the_same(tmp_path: Path) -> None:
    latents, out = store(tmp_path / "latents"), tmp_path / "run"
    plain = ("--set", "training.schedule=constant", "--set", "training.warmup_steps=1")
    train(latents, out, *plain, "--steps", "2")
    train(latents, tmp_path / "whole", *plain, "--steps", "4")
    train(latents, out, *plain, "--steps", "4", "--resume")
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (out, tmp_path / "whole")]
    assert weights[0] == weights[1]
    with pytest.raises(InvalidFile, match="at step 4 already"):
        train(latents, out, *plain, "--steps", "3", "--resume")
    cosine = ("--set", "training.schedule=cosine")
    train(latents, tmp_path / "cosine", "--steps", "2", *cosine)
    with pytest.raises(InvalidFile, match=r"training\.schedule_steps=N"):
        train(latents, tmp_path / "cosine", "--steps", "3", *cosine, "--resume")
    train(latents, tmp_path / "cosine", "--steps", "3", *cosine, "--set", "training.schedule_steps=2", "--resume")


def test_resume_alone_takes_the_runs_own_settings(tmp_path: Path) -> None:
    latents, out = begun(tmp_path)
    invoke(["train", "diffusion", "--out", str(out), "--resume"])
    assert load_generator(out).config.width == 32
    plain = ["--set", "training.schedule=constant", "--set", "training.warmup_steps=1", "--set", "training.steps=2"]
    train(latents, tmp_path / "two", *plain)
    (tmp_path / "two").rename(tmp_path / "moved")
    for more in ([], ["--steps", "3"], ["--set", "training.steps=4"], []):
        invoke(["train", "diffusion", f"--out={tmp_path / 'moved'}", "--resume", *more])
    rows = (tmp_path / "moved" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [2, 3, 4]
    recorded = yaml.safe_load((tmp_path / "moved" / "config.yaml").read_text())["arguments"]
    assert recorded.count("--latents") == 1 and recorded.count("--set") == len(
        {word for word in recorded if "=" in word}
    )
    with pytest.raises(InvalidFile, match=r"model\.width: 32 then, 16 now"):
        invoke(["train", "diffusion", "--out", str(out), "--resume", "--set", "model.width=16"])


@pytest.mark.parametrize(
    ("own", "rest"),
    [
        ("", "--track a --track b --steps 4 --set model.x=1"),
        ("--track c", "--steps 4 --set model.x=1 --track c"),
        ("--set training.track=[]", "--steps 4 --set model.x=1 --set training.track=[]"),
        ("--set training.steps=6", "--track a --track b --set model.x=1 --set training.steps=6"),
        ("--set model.x=2 --set model.y=1", "--track a --track b --steps 4 --set model.x=2 --set model.y=1"),
    ],
)
def test_resume_alone_keeps_what_was_repeated_and_own_values_replace_all_of_it(
    own: str, rest: str, tmp_path: Path
) -> None:
    recorded = ["train", "flow", "--track", "a", "--track", "b", "--steps", "4", "--set", "model.x=1"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"arguments": recorded}))
    call = ["--out", str(tmp_path), "--resume"]
    words = resumed_arguments(["train", "flow", *own.split(), *call])
    assert words[2:] == [*rest.removesuffix(own).split(), *own.split(), *call]


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_how_the_first_call_printed_is_not_how_later_ones_print(option: str, tmp_path: Path, capsys) -> None:
    latents, out = begun(tmp_path)
    train(latents, out, "--steps", "1", "--overwrite", option)
    config = out / "config.yaml"
    recorded = yaml.safe_load(config.read_text())
    assert option not in recorded["arguments"]
    recorded["arguments"].append(option)  # as earlier versions recorded it
    config.write_text(yaml.safe_dump(recorded))
    capsys.readouterr()
    invoke(["train", "diffusion", "--out", str(out), "--resume"])
    assert capsys.readouterr().out.startswith("wrote ")


def test_a_recipes_step_takes_nothing_from_the_run_that_it_continues(tmp_path: Path) -> None:
    latents, out = begun(tmp_path)
    words = ["train", "diffusion", "--latents", str(latents), "--out", str(out), "--resume"]
    with pytest.raises(InvalidFile, match="was started with other settings"):
        invoke(words, complete=True)  # the preset's own width, which the run has not
    invoke(words)


def images(path: Path, seed: int) -> Path:
    path.mkdir()
    random = np.random.default_rng(seed)
    for i in range(4):
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path / f"{i}.bmp")
    return path


def test_a_training_stage_is_not_resumed_on_other_pictures_of_the_same_names_and_sizes(tmp_path: Path) -> None:
    data, out = images(tmp_path / "images", 0), tmp_path / "vae"

    def stage(folder: Path) -> None:
        small = "--set model.widths=[8,8] --set model.norm_groups=4 --set training.checkpoint_every=1"
        invoke(f"train vae --data {folder} --out {out} --steps 2 --batch-size 2 --device cpu --resume {small}".split())

    stage(data)
    invoke(["train", "vae", "--out", str(out), "--resume"])
    stage(shutil.copytree(data, tmp_path / "copy"))
    times = {path: path.stat().st_mtime for path in data.iterdir()}
    shutil.rmtree(data)
    images(data, 1)
    for path, time in times.items():
        os.utime(path, (time, time))
    with pytest.raises(InvalidFile, match="other images"):
        stage(data)


@pytest.mark.parametrize("adaptive", ["last_layer", "per_image"])
def test_micro_batches_keep_their_size_where_a_loss_weighs_them_as_a_whole(adaptive: str, tmp_path: Path) -> None:
    data, out = images(tmp_path / "images", 0), tmp_path / "vae"
    words = f"train vae --data {data} --out {out} --batch-size 4 --device cpu --resume --set training.schedule_steps=8"
    losses = {"adversarial": "patchgan", "adversarial_start": 0, "discriminator_start": 0, "adaptive": adaptive}
    losses |= {"adversarial_weight": 0.1, "discriminator_width": 8}
    words += " --set model.widths=[8,8] --set model.norm_groups=4"
    words += "".join(f" --set vae.losses.{name}={value}" for name, value in losses.items())
    invoke([*words.split(), "--steps", "1"])
    parts = [*words.split(), "--steps", "2", "--set", "training.accumulation=2"]
    if adaptive == "per_image":
        invoke(parts)
        return
    with pytest.raises(
        InvalidSettings, match=r"micro_batch: 4 then, 2 now.*keep --processes times training\.accumulation"
    ):
        invoke(parts)
    invoke([*parts, "--set", "training.accumulation=1"])


def test_samples_of_two_generators_are_never_mixed(tmp_path: Path) -> None:
    bundle = bundle_folders()["cifar10"]

    def sample(generator: Path) -> None:
        fixed = "--count 3 --device cpu --set steps=1 --no-npz --resume"
        invoke(
            [
                "sample",
                "--generator",
                str(generator),
                "--decoder",
                "cifar10",
                "--out",
                str(tmp_path / "out"),
                *fixed.split(),
            ]
        )

    shutil.copytree(bundle / "generator", tmp_path / "one")
    sample(tmp_path / "one")
    first = (tmp_path / "out" / "images" / "000000.png").read_bytes()
    (tmp_path / "out" / "images" / "000002.png").unlink()
    other = load_generator(tmp_path / "one")
    with torch.no_grad():
        next(other.parameters()).mul_(0.5)
    other.save_pretrained(tmp_path / "two")
    with pytest.raises(FAEError, match="another generator"):
        sample(tmp_path / "two")
    assert not (tmp_path / "out" / "images" / "000002.png").exists()
    (tmp_path / "one").rename(tmp_path / "moved")
    sample(tmp_path / "moved")
    assert (tmp_path / "out" / "images" / "000000.png").read_bytes() == first


def test_a_flipped_bit_of_a_decoder_is_found_when_it_is_loaded(tmp_path: Path) -> None:
    shutil.copytree(bundle_folders()["cifar10"] / "tokenizer", tmp_path / "fae")
    load_decoder(tmp_path / "fae")
    for name in ("pixel_decoder/model.safetensors", "feature_decoder/model.safetensors", "latent_spec.json"):
        path = tmp_path / "fae" / name
        whole = path.read_bytes()
        place = len(whole) - 1001 if name.endswith("safetensors") else whole.index(b"0.")
        path.write_bytes(whole[: place + 2] + bytes([whole[place + 2] ^ 1]) + whole[place + 3 :])
        with pytest.raises(InvalidFile, match=r"damaged"):
            load_decoder(tmp_path / "fae")
        path.write_bytes(whole)


@pytest.mark.parametrize("section", ["noise", "vae"])
def test_networks_in_a_loss_are_compared_by_content_wherever_they_lie(section: str, tmp_path: Path) -> None:
    import timm

    for name in ("one", "two"):
        torch.manual_seed(len(list(tmp_path.iterdir())))
        save_file(timm.create_model("test_resnet.r160_in1k").state_dict(), tmp_path / f"{name}.safetensors")
    images = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "images.npz", arr_0=images.numpy())
    command = {"noise": "pixel --stage noise --encoder fae-tiny", "vae": "vae"}[section]
    losses = {
        "perceptual": "backbone",
        "perceptual_backbone": "timm/test_resnet.r160_in1k",
        "perceptual_layers": "[1]",
    }
    preset = {"noise": "pixel-decoder-tiny", "vae": "conv-vae-tiny"}[section]
    words = [
        "train",
        *command.split(),
        "--preset",
        preset,
        "--data",
        f"{tmp_path}/images.npz",
        "--out",
        f"{tmp_path}/run",
    ]
    words += ["--batch-size", "2", "--set", "training.schedule_steps=8"]
    words += [word for key, value in losses.items() for word in ("--set", f"{section}.losses.{key}={value}")]

    def train_with(weights: str, *more: str) -> None:
        invoke(
            [*words, "--set", f"{section}.losses.perceptual_backbone_weights={tmp_path}/{weights}.safetensors", *more]
        )

    train_with("one", "--steps", "1")
    (tmp_path / "one.safetensors").rename(tmp_path / "moved.safetensors")
    train_with("moved", "--steps", "2", "--resume")
    (tmp_path / "moved.safetensors").write_bytes((tmp_path / "two.safetensors").read_bytes())
    with pytest.raises(InvalidFile, match="started on other perceptual network"):
        train_with("moved", "--steps", "3", "--resume")
