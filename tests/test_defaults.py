"""A default preset, which is for the demo or tests, is never taken unnoticed for something of another size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fae_core.cli.defaults import preset_words
from fae_core.commands.groups import invoke
from fae_core.errors import InvalidSettings
from fae_core.models.presets import load_preset

GIANT = "timm/vit_giant_patch14_dinov2.lvd142m"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 40, 3), np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("kind", "at_hand", "preset"),
    [
        ("lightningdit", {"latents": (32, 16, 16)}, "lightningdit-xl"),
        ("lightningdit", {"latents": (32, 8, 8)}, "lightningdit-cifar10"),
        ("lightningdit", {"latents": (16, 8, 8)}, "lightningdit-demo"),
        ("lightningdit", {"latents": (64, 16, 16)}, "lightningdit-xl"),  # of which models of 64 channels are made
        ("mmdit", {"latents": (64, 24, 24)}, "mmdit-384"),
        ("pixel-decoder", {"features": (1536, 16, 16), "images": (256, 256), "backbone": GIANT}, "pixel-decoder-l"),
        ("pixel-decoder", {"features": (176, 8, 8), "images": (64, 64)}, "pixel-decoder-demo"),
        ("pixel-decoder", {"features": (177, 8, 8), "images": (64, 64)}, "PRESET"),
        ("feature-decoder", {"images": (64, 64)}, "feature-decoder-demo"),
    ],
)
def test_a_hint_names_a_preset_of_the_size_at_hand(kind: str, at_hand: dict, preset: str) -> None:
    chosen, remark = preset_words(kind, at_hand, "feature-decoder-demo")
    assert chosen == preset
    assert chosen != "PRESET" or f"fae presets {kind}" in remark


def test_latents_of_another_size_refuse_the_default(images: Path, tmp_path: Path) -> None:
    store = tmp_path / "latents"
    invoke(f"encode --data {images} --model fae-tiny --weights random --out {store}".split())  # 8 channels
    for command, default in (("diffusion", "lightningdit-tiny"), ("flow", "starflow-tiny")):
        with pytest.raises(InvalidSettings, match=f"{default} is taken, which is made for latents of 16x4x4"):
            invoke(f"train {command} --latents {store} --out {tmp_path}/run".split())
    assert not (tmp_path / "run").exists()
    brief = "--steps 1 --batch-size 2 --device cpu"
    invoke(f"train diffusion --latents {store} --out {tmp_path}/run --preset lightningdit-tiny {brief}".split())


@pytest.mark.parametrize("command", ["autoencoder", "pixel"])
def test_an_encoder_of_another_size_refuses_the_default(command: str, images: Path, tmp_path: Path) -> None:
    words = f"train {command} --data {images} --encoder fae-tiny --weights random --out {tmp_path}/run"
    kind = {"autoencoder": "feature-decoder", "pixel": "pixel-decoder"}[command]
    with pytest.raises(InvalidSettings, match=rf"made for features of 176x8x8.*{kind}-tiny"):
        invoke(words.split())
    assert not (tmp_path / "run").exists()


def test_images_of_another_size_are_told(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    invoke(f"encode --data {images} --out {tmp_path}/latents".split())
    said = [line for line in capsys.readouterr().err.splitlines() if "without --model" in line]
    assert len(said) == 1 and "128x128" in said[0] and "48x40" in said[0]
    size = load_preset("fae-lite0-32")["model"]["image_size"]
    Image.new("RGB", (size, size)).save(images / "0.png")
    invoke(f"encode --data {images} --out {tmp_path}/fitting".split())
    assert "without --model" not in capsys.readouterr().err
