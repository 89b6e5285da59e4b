"""How each command is called where everything is right, on inputs as small as the commands take them. For
fuzz_commands.py."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import numpy as np
import torch
from PIL import Image

BRIEF = "--set training.checkpoint_every=2 --set training.log_every=1 --device cpu"
TRAIN = f"--steps 2 --batch-size 2 {BRIEF}"
SMALL_EVAL = "--extractor efficientnet-lite2@32 --size 32 --no-cache --device cpu --batch-size 4"

# How each command is called where everything is right: {w} has the inputs, {o} is the output. Others are called with
# what they demand.
BASES: dict[str, str] = {
    "crops": "{w}/photos --out {o} --count 2 --size 8",
    "demo": "--data {w}/empty --out {o}",
    "train vae": f"--data {{w}}/photos --out {{o}} --preset conv-vae-tiny {TRAIN}",
    "train autoencoder": f"--data {{w}}/photos --out {{o}} --encoder fae-tiny --preset feature-decoder-tiny {TRAIN}",
    "train pixel": f"--data {{w}}/photos --out {{o}} --autoencoder {{w}}/autoencoder --preset pixel-decoder-tiny "
    f"--set noise.losses.perceptual=none {TRAIN}",
    "train diffusion": f"--latents {{w}}/latents --out {{o}} --preset lightningdit-tiny {TRAIN}",
    "train flow": f"--latents {{w}}/latents --out {{o}} --preset starflow-tiny {TRAIN}",
    "encode": "--data {w}/photos --out {o} --model {w}/vae --batch-size 2 --device cpu",
    "reconstruct": "--model {w}/vae --data {w}/photos --out {o} --count 2 --device cpu",
    "sample": "--generator {w}/diffusion --decoder {w}/vae --out {o} --count 2 --device cpu --set steps=1",
    "assemble": "--autoencoder {w}/autoencoder --pixel {w}/pixel --out {o}",
    "bundle": "--tokenizer {w}/vae --generator {w}/diffusion --out {o} --dtype float32",
    "info": "{w}/diffusion",
    "presets": "conv-vae",
    "run": "{w}/recipe.yaml --out {o}",
    "import sit": "{w}/official.pt --out {o} --arch S/2",
    "eval frechet": f"--samples {{w}}/photos --reference {{w}}/photos --out {{o}} {SMALL_EVAL}",
    "eval generation": f"--samples {{w}}/samples --reference {{w}}/photos --metrics fid --out {{o}} {SMALL_EVAL}",
    "eval pack": "--samples {w}/photos --out {o}.npz --size 16",
    "eval compare": "A={w}/record.json B={w}/record.json --out {o}",
    "eval curves": "a={w}/vae --out {o}.svg",
    "eval report": "{w}/vae {w}/samples --out {o}.html",
    "eval pca": "--model {w}/autoencoder --data {w}/photos --count 2 --out {o} --device cpu",
    "eval coco": "--annotations {w}/annotations.json --images {w}/photos/a --out {o} --count 2 --size 8",
}
# Commands that go on where an earlier call has stopped: what lies in {o} then, and the call.
RESUMED: dict[str, tuple[str, str]] = {
    "train vae": ("vae", f"{BASES['train vae']} --resume"),
    "train diffusion": ("diffusion", f"{BASES['train diffusion']} --resume"),
    "sample": ("samples", f"{BASES['sample']} --resume"),
    "encode": ("latents", f"{BASES['encode']} --resume"),
    "run": ("recipe", f"{BASES['run']} --resume"),
    "bundle": ("bundle", "--tokenizer {o} --generator {o} --out {o}-again --dtype float32"),
    "info": ("bundle", "{o}"),
}
VALUES = (
    "", " ", "-1", "0", "1", "2.5", "nan", "inf", "-inf", "1e999", "9" * 25, "9" * 5000, "-9223372036854775809",
    "abc", "é☃\u202e", "a" * 5000,
    "x/" * 3000, "{w}/../nowhere", "{w}/nowhere/at/all", "/dev/null", "/dev/zero", "/proc/self/mem", "{w}", "{w}/~",
    "{w}/pipe", "{w}/photos", "{w}/photos/a/0.png",
    "{w}/latin1.txt", "{w}/empty", "{w}/deep.json", "{w}/loop", "{w}/dangling", "{w}/vae", "{w}/latents",
    "{w}/diffusion", "{w}/recipe.yaml",
    "\udce9", "a\0b", "a\nb", "[1,2]", "{a: 1}", "null", "true", "a=b", "=", "a.b=[", "x=" + "[" * 500, "1,2",
    "0.5,0.5", "9,8", "1,x", "timm/", "hf/nothing", "timm/nothing",
    "https://user:secret@127.0.0.1:1/x.tar?sig=secret", "mps", "gpu", "cuda", "cuda:99", "cuda:-1", "XL/2", "Z/0",
    "random", "pretrained", "float64", "fp16",
    "A={w}/record.json", "a={w}/vae", "1={w}/photos", "fid,x", "@", "efficientnet-lite2@0",
    "efficientnet-lite2@99999999",
)  # fmt: skip
NUMBERS = (
    "-1", "0", "1", "2", "3", "1.5", "0.3", "-0.0", "1e-30", "1e30", "1e308", "-1e308", "1e999", "nan", "inf", "-inf",
    "9" * 25, "-" + "9" * 25,
    "9" * 5000, "2147483648", "9223372036854775808", "18446744073709551616", "0x10", "١", " 7", "7 ", "1e3",
)  # fmt: skip


def filled(text: str, world: Path, out: Path) -> list[str]:
    """The words of a call with its folders put in."""
    return [word.replace("{w}", str(world)).replace("{o}", str(out)) for word in shlex.split(text)]


def make_inputs(world: Path) -> None:
    """A valid input of every kind, as small as the commands take them."""
    chance = np.random.default_rng(0)
    for name in ("a", "b"):
        (world / "photos" / name).mkdir(parents=True)
        for number in range(3):
            pixels = chance.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(world / "photos" / name / f"{number}.png")
    lines = [
        {"file_name": f"{name}/{number}.png", "caption": f"a {name}"} for name in ("a", "b") for number in range(3)
    ]
    (world / "photos" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (world / "photos" / "classes.json").write_text('["a", "b"]')
    (world / "prompts.txt").write_text("a cat\na dog\n")
    (world / "latin1.txt").write_bytes("café".encode("latin-1"))
    (world / "deep.json").write_text("[" * 100_000)
    (world / "empty").mkdir()
    os.mkfifo(world / "pipe")
    (world / "loop").symlink_to("loop")
    (world / "dangling").symlink_to("nowhere")
    record = {
        "kind": "generation",
        "title": "t",
        "table": {"columns": ["", "FID"], "rows": [["x", 1.5]]},
        "values": {"FID": 1.5},
    }
    (world / "record.json").write_text(json.dumps(record))
    step = 'steps:\n  - {name: crops, run: "crops {data} --out {out}/data --count {count} --size 8"}\n'
    (world / "recipe.yaml").write_text(
        f"title: t\nvariables: {{data: {world}/photos, count: 2}}\nsizes: {{smoke: {{count: 1}}}}\n{step}"
    )
    (world / "config.yaml").write_text("model: {channels: 4}\ntraining: {steps: 1, seed: 1}\n")
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(3)]
    texts = [{"id": number, "image_id": number, "caption": "a cat"} for number in range(3)]
    (world / "annotations.json").write_text(json.dumps({"images": images, "annotations": texts}))
    torch.save({"model": {"x_embedder.proj.bias": torch.zeros(4)}}, world / "official.pt")


# What the calls above read of each other, in an order in which all is there.
MADE = (
    ("train vae", "vae"),
    ("train autoencoder", "autoencoder"),
    ("train pixel", "pixel"),
    ("encode", "latents"),
    ("train diffusion", "diffusion"),
    ("sample", "samples"),
    ("bundle", "bundle"),
    ("run", "recipe"),
)
