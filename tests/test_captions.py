"""Captions go from files beside images through `fae encode` to what a text-conditional generator learns from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from fae_core import LatentStore
from fae_core.commands.groups import invoke
from fae_core.images.captions import split_captions
from fae_diffusion.text.training import captions_of


def test_captions_of_a_folder_reach_the_text_conditional_training(tmp_path: Path) -> None:
    texts = ["a red door", "", "zwei Katzen"]
    for i, text in enumerate(texts):
        pixels = np.full((64, 64, 3), 40 * i, np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
        (tmp_path / "images" / f"{i}.txt").write_text(text, encoding="utf-8")
    images, out = f"{tmp_path / 'images'}[::-1]", tmp_path / "latents"
    invoke(["encode", "--data", images, "--model", "fae-tiny", "--out", str(out), "--device", "cpu"])
    assert captions_of(LatentStore(out), "unused {}") == texts[::-1]
    lines = [{"file_name": f"{i}.png", "captions": [text, f"number {i}"]} for i, text in enumerate(texts)]
    (tmp_path / "images" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    invoke(["encode", "--data", images, "--model", "fae-tiny", "--out", f"{out}-2", "--device", "cpu"])
    found = captions_of(LatentStore(f"{out}-2"), "unused {}")
    assert [split_captions(text) for text in found] == [[texts[i], f"number {i}"] for i in (2, 1, 0)]
