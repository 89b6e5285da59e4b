"""`fae train ... --dry-run` says what a run would be, and makes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fae_core.commands.groups import invoke
from fae_core.cost.counted import measure_cost
from fae_core.errors import InvalidSettings, OutputExists
from fae_core.models.folder import read_config
from fae_core.spec import LatentSpec
from fae_diffusion import LightningDiT, SiT

BRIEF = "--steps 2 --batch-size 2 --device cpu --set training.keep_at=[1]"
GAN = "--set noise.losses.adversarial=patchgan --set noise.losses.discriminator_width=8"
COMMANDS = {
    "autoencoder": "train autoencoder --data images --preset feature-decoder-tiny",
    "noise": f"train pixel --data images --autoencoder ae --preset pixel-decoder-tiny {GAN}",
    "finetune": "train pixel --stage finetune --data images --autoencoder ae --init px",
    "vae": "train vae --data images --preset conv-vae-tiny",
    "diffusion": "train diffusion --latents latents --preset sit-tiny",
    "flow": "train flow --latents latents --preset starflow-tiny",
    "live": "train diffusion --data images --tokenizer ae --preset lightningdit-tiny",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a run of stage Ia, one of stage Ib, and latents."""
    root = tmp_path_factory.mktemp("place")
    (root / "images").mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        invoke(f"{COMMANDS['autoencoder']} {BRIEF} --out ae".split())
        invoke(f"{COMMANDS['noise']} {BRIEF} --out px".split())
        invoke(["encode", "--data", "images", "--model", "ae", "--out", "latents"])
    return root


def everything(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def planned(line: str, capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    invoke([*line.split(), "--dry-run", "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_plan_is_what_the_run_records_then(
    name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    line = f"{COMMANDS[name]} {BRIEF} --out {tmp_path}/run"
    before = everything(place)
    plan = planned(f"{line} --processes 2", capsys)
    assert everything(place) == before and not (tmp_path / "run").exists()
    invoke(line.split())
    recorded = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert plan["command"] == recorded["command"]
    for section, content in plan["settings"].items():
        there = recorded[section]
        if section == "encoder":  # hashes of weights, which a plan does not read
            content, there = ({**one, "backbone": {**one["backbone"], "fingerprint": ""}} for one in (content, there))
        if section == "model" and "features" in content:
            content, there = ({**one, "features": None} for one in (content, there))
        assert content == there, section
    assert plan["reads"]["samples"] == 6
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert {part for part in plan["writes"] if part != "folder"} <= written
    assert plan["writes"]["exports"] == [path.name for path in (tmp_path / "run/exports").iterdir()]
    state = json.loads(next((tmp_path / "run/checkpoints").glob("*/state.json")).read_text())
    weights = {key: np.prod(shape) for key, shape in state["tensors"].items() if key.startswith("weights/")}
    buffers = ("noted", "anchor", "running", "null_tokens", "num_batches")
    trained = sum(size for key, size in weights.items() if not any(word in key for word in buffers))
    assert plan["parameters"]["trained"] == pytest.approx(trained, rel=0.01)
    assert plan["time"]["gpu_hours"] > 0 and plan["memory_gb"]["of_each_process"] > 0
    assert "encoder" not in plan["time"].get("not_counted", ())


def test_hours_are_steps_times_samples_times_flops(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    plan = planned("train diffusion --latents latents --preset lightningdit-tiny --steps 500 --out run", capsys)
    stored = LightningDiT.config_class(**plan["settings"]["model"])
    latents = LatentSpec.load(place / "latents")
    work = measure_cost(lambda **more: LightningDiT(stored.model_copy(update=more), latents)).work()
    samples = 500 * plan["settings"]["training"]["batch_size"]
    assert plan["time"]["gpu_hours"] == pytest.approx(samples * work / (0.4 * 989e12) / 3600, rel=0.01)
    assert plan["time"]["epochs"] == pytest.approx(samples / 6, rel=0.01)


def test_no_image_is_decoded_and_no_weights_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.png").write_bytes(b"no image")
    plan = planned("train autoencoder --data images --preset feature-decoder-1536 --out run --processes 8", capsys)
    assert plan["parameters"]["adapter"] == 38_166_592  # appendix D's 38.17 M
    assert plan["parameters"]["feature_decoder"] == 170_426_880  # and 170.43 M
    assert plan["settings"]["training"]["batch_size"] == 1024
    assert 100 < plan["time"]["hours"] * 8 < 2000
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_generator_may_run_in_fp32_alone_or_not_at_all(
    fails: bool, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    usual = planned("train diffusion --latents latents --preset sit-tiny --out run", capsys)
    run = SiT.dry_run

    def dry_run(model: SiT, batch: int) -> torch.Tensor:
        if fails or next(model.parameters()).dtype != torch.float32:
            raise RuntimeError("expected mat1 and mat2 to have the same dtype")
        return run(model, batch)

    monkeypatch.setattr(SiT, "dry_run", dry_run)
    plan = planned("train diffusion --latents latents --preset sit-tiny --out run", capsys)
    if fails:
        (told,) = plan["time"]["not_counted"]
        assert told == "model (dry_run of SiT fails on the meta device: expected mat1 and mat2 to have the same dtype)"
    else:
        assert plan["time"] == usual["time"]
    assert plan["parameters"] == usual["parameters"]


def test_text_is_not_embedded(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(place)
    before = everything(place)
    plan = planned("train diffusion --latents latents --preset mmdit-tiny --out run", capsys)
    assert plan["parameters"]["trained"] > 0 and everything(place) == before


def test_what_a_run_refuses_a_plan_refuses(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    model = read_config(place / "ae/model")
    with pytest.raises(OutputExists):
        invoke(f"{COMMANDS['diffusion']} --dry-run --out ae".split())
    with pytest.raises(InvalidSettings):
        invoke(f"{COMMANDS['flow']} --dry-run --out run --batch-size 3 --set training.accumulation=2".split())
    assert read_config(place / "ae/model") == model


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("flow", "training.preview_every=2", "nothing to draw: add --set preview.decoder=TOKENIZER"),
        ("diffusion", "preview.decoder=ae", "at no step: add --set training.preview_every=N, 0 for none"),
        ("autoencoder", "training.preview_every=2", "fae train autoencoder makes no previews"),
    ],
)
def test_previews_that_would_not_be_made_are_refused(
    name: str, given: str, message: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(InvalidSettings, match=message):
        invoke(f"{COMMANDS[name]} --dry-run --out run --set {given}".split())


def test_a_plan_of_encoding_is_the_store_that_is_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    line, before = f"encode --data images --model ae --flip --shard-size 4 --out {tmp_path}/store", everything(place)
    plan = planned(line, capsys)
    assert everything(place) == before and not (tmp_path / "store").exists()
    invoke(line.split())
    shards = list((tmp_path / "store").glob("*.safetensors"))
    assert plan["writes"]["shards"] == len(shards) == 2
    assert plan["writes"]["latents"] == "x".join(map(str, LatentSpec.load(tmp_path / "store").shape))
    size = sum(path.stat().st_size for path in shards)
    assert plan["writes"]["gb"] * 1e9 == pytest.approx(size, rel=0.4)  # names, indices and headers besides
    assert plan["reads"]["images"] == 6 and plan["time"]["gpu_hours"] > 0
