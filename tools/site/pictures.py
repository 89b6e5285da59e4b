"""The pictures of the home page, made by the bundle cifar10 on the CPU in a minute, and those of other pages.

    python tools/site/pictures.py                                       # docs/pictures/forming.webp and line.webp
    python tools/site/pictures.py --side-by-side runs/side-by-side      # adapters.webp, of recipes/side-by-side.yaml
    python tools/site/pictures.py --tutorial runs/tutorial              # tutorial-*.webp, of docs/tutorial.md

forming: six samples, chosen among eight of each class, on their way from noise, decoded at every step. line: a
photograph through the tokenizer, its features and latent as colours (three principal directions each), and the
generator below.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fae_core import SlotRandom, load_generator, load_tokenizer, show
from fae_core.images import load_batch, open_images
from fae_core.images.spread import evenly_spread

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"
BUNDLE = "cifar10"
# Class -> slot of its noise, each chosen by eye among eight.
SHOWN = {"airplane": 1, "automobile": 15, "bird": 21, "dog": 41, "horse": 57, "ship": 71}
SEED, STEPS = 5, 24
VARIANTS = {
    "attention-4": "attention, 4\nchannels",
    "attention-16": "attention, 16",
    "attention-64": "attention, 64",
    "linear-16": "linear, 16",
    "transformer-16": "four layers, 16",
}
_IN_A_ROW = 4  # pictures of the tutorial, so that each is large enough on a phone
_PAIR = 112  # pixels a side of a picture in its pairs
_LETTERS = 20  # pixels high, to be read on a phone, which shows a picture at a third of its size
_GAP = 92  # pixels between pictures, for an arrow and the words above it
_INK, _PAPER = (51, 51, 51), (255, 255, 255)


@torch.no_grad()
def states(labels: Tensor, random: SlotRandom) -> list[Tensor]:
    """Latents at every step of Euler's method from t = 1 to 0, the first one noise; more steps than the bundle needs.

    Args:
        labels: Classes, (B,).
        random: Draws the noise.
    """
    generator: Any = load_generator(BUNDLE)
    z = random.normal(generator.spec.shape, "noise")
    times = torch.linspace(1, 0, STEPS + 1)
    found = [z]
    for t, after in pairwise(times):
        z = z + (after - t) * generator.velocity(z, t.expand(len(z)), labels)  # guidance is built in
        found.append(z)
    return found


def forming(path: Path) -> None:
    """The animation, under 1 MB; the last state stays for two seconds."""
    tokenizer: Any = load_tokenizer(BUNDLE)
    generator: Any = load_generator(BUNDLE)
    labels = torch.tensor([generator.class_names.index(name) for name in SHOWN])
    found = states(labels, SlotRandom(SEED, list(SHOWN.values())))
    frames = []
    with torch.no_grad():
        for number, z in enumerate(found):
            pictures = [_picture(one, 128) for one in tokenizer.decode(z)]
            frame = _row(pictures, tuple(SHOWN), gap=8)
            done = frame.width * number // STEPS
            ImageDraw.Draw(frame).rectangle((0, frame.height - 4, max(done, 1), frame.height), fill=(42, 111, 219))
            frames.append(frame)
    durations = [600, *[120] * (len(frames) - 2), 2000]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=80, method=6)


@torch.no_grad()
def line(path: Path) -> None:
    """FAE in one picture."""
    tokenizer: Any = load_tokenizer(BUNDLE)
    photograph = open_images("photographs")
    images = load_batch(photograph, [1], tokenizer.spec.image_shape[0])
    z = tokenizer.encode(images)
    features, rebuilt = tokenizer.encoder.features(images), tokenizer.features(z)
    grid = tokenizer.encoder.backbone.grid
    basis = _basis(features[0])
    top = [
        _picture(images[0], 150),
        _colours(features[0], grid, basis),
        _colours(z[0].flatten(1).mT, tuple(z.shape[-2:]), _basis(z[0].flatten(1).mT)),
        _colours(rebuilt[0], grid, basis),
        _picture(tokenizer.decode(z)[0], 150),
    ]
    width = features.shape[-1]
    names = (
        "photograph",
        f"features, {width}\nnumbers a patch",
        f"latent, {z.shape[1]}\nnumbers a patch",
        "rebuilt\nfeatures",
        "decoded\npicture",
    )
    row = _row(top, names, gap=_GAP, arrows=("frozen\nencoder", "one\nattention", "feature\ndecoder", "pixel\ndecoder"))
    generator: Any = load_generator(BUNDLE)
    labels = torch.tensor([generator.class_names.index("ship")])
    found = states(labels, SlotRandom(SEED, [SHOWN["ship"]]))
    zs = [found[0][0], found[STEPS // 2][0], found[-1][0]]
    own = _basis(zs[-1].flatten(1).mT)
    made = [_colours(one.flatten(1).mT, tuple(one.shape[-2:]), own) for one in zs]
    made.append(_picture(tokenizer.decode(found[-1])[0], 150))
    below = _row(
        made,
        ("noise", "half-way", "sampled\nlatent", "decoded:\na ship"),
        gap=_GAP,
        arrows=("gene-\nrator", "gene-\nrator", "both\ndecoders"),
    )
    whole = Image.new("RGB", (row.width, row.height + 24 + below.height), _PAPER)
    whole.paste(row, (0, 0))
    whole.paste(below, ((row.width - below.width) // 2, row.height + 24))
    whole.save(path, quality=88, method=6)


def side_by_side(runs: Path, path: Path) -> None:
    """Held-out crops, a row for each adapter or number of channels.

    Args:
        runs: What `fae run recipes/side-by-side.yaml` wrote.
        path: The picture to write.
    """
    record = json.loads((runs / "steps.json").read_text("utf-8"))
    data = open_images(f"{record['variables']['data']}/held-out")
    taken = evenly_spread(data, int(record["variables"]["count"]))  # as `fae reconstruct --count` takes them
    shown = [round(i * (len(taken) - 1) / 7) for i in range(8)]
    rows: list[tuple[str, Sequence[Image.Image]]] = [("held-out crops", [taken.read(i) for i in shown])]
    for variant, name in VARIANTS.items():
        folder = runs / f"reconstruction-{variant}"
        values = json.loads((folder / "results" / "reconstruction.json").read_text("utf-8"))["values"]
        pictures = [Image.open(folder / "images" / f"{i:06d}.png") for i in shown]
        rows.append((f"{name}\n{values['PSNR [dB]']:.1f} dB", pictures))
    side, left, font = 80, 165, ImageFont.load_default(size=_LETTERS)
    whole = Image.new("RGB", (left + 8 * (side + 4), len(rows) * (side + 4)), _PAPER)
    for number, (name, pictures) in enumerate(rows):
        y = number * (side + 4)
        ImageDraw.Draw(whole).multiline_text((8, y + side / 2), name, _INK, font=font, anchor="lm")
        for place, picture in enumerate(pictures):
            small = picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            whole.paste(small, (left + place * (side + 4), y))
    whole.save(path, quality=88, method=6)


def tutorial(run: Path) -> None:
    """The pictures of the tutorial.

    Args:
        run: What its commands wrote.
    """
    crops = evenly_spread(open_images(run / "data" / "train"), 8)
    shown = show([crops.read(i) for i in range(len(crops))], columns=_IN_A_ROW)
    shown.save(PICTURES / "tutorial-crops.webp", quality=88, method=6)
    record = json.loads((run / "reconstruction" / "results" / "reconstruction.json").read_text("utf-8"))
    with Image.open(run / "reconstruction" / "pairs.png") as strip:
        pairs = in_rows(strip.convert("RGB"), record["figures"][0]["columns"][::2])
    pairs.save(PICTURES / "tutorial-pairs.webp", quality=88, method=6)
    with Image.open(run / "samples" / "grid.png") as grid:
        grid.convert("RGB").save(PICTURES / "tutorial-samples.webp", quality=88, method=6)


def in_rows(strip: Image.Image, columns: Sequence[Sequence[float]]) -> Image.Image:
    """Columns of a strip of pairs in rows of a few, so that a phone shows them large enough.

    Args:
        strip: Originals above reconstructions.
        columns: [left, right] of those to show.
    """
    size, step = (_PAIR, 2 * _PAIR + 4), 2 * _PAIR + 16
    rows = -(-len(columns) // _IN_A_ROW)
    whole = Image.new("RGB", (_IN_A_ROW * (_PAIR + 4) - 4, rows * step - 12), _PAPER)
    for number, (left, right) in enumerate(columns):
        pair = strip.resize(size, Image.Resampling.LANCZOS, box=(left, 0, right, strip.height))
        whole.paste(pair, (number % _IN_A_ROW * (_PAIR + 4), number // _IN_A_ROW * step))
    return whole


def _basis(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and the three strongest directions, of tokens (N, D)."""
    mean = tokens.mean(0)
    directions = torch.linalg.svd(tokens - mean, full_matrices=False)[2][:3]
    signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    return mean, directions * signs


def _colours(tokens: Tensor, grid: Sequence[int], basis: tuple[Tensor, Tensor]) -> Image.Image:
    """Tokens (N, D) on their grid, three directions as red, green, blue."""
    mean, directions = basis
    values = (tokens - mean) @ directions.mT
    low, high = values.quantile(0.02, dim=0), values.quantile(0.98, dim=0)
    values = ((values - low) / (high - low)).clamp(0, 1).mT.reshape(3, *grid)
    return _picture(values, 150, Image.Resampling.NEAREST)


def _picture(values: Tensor, side: int, resampling: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    pixels = (values.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels).resize((side, side), resampling)


def _row(pictures: Sequence[Image.Image], names: Sequence[str], *, gap: int, arrows: Sequence[str] = ()) -> Image.Image:
    """Pictures side by side with their names below, and arrows with what they stand for between them."""
    side = pictures[0].width
    font = ImageFont.load_default(size=_LETTERS)
    lines = max(name.count("\n") for name in names) + 1
    row = Image.new("RGB", (len(pictures) * (side + gap) - gap + 16, side + 20 + lines * (_LETTERS + 6)), _PAPER)
    draw = ImageDraw.Draw(row)
    for number, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        x = 8 + number * (side + gap)
        row.paste(picture, (x, 8))
        draw.multiline_text((x + side / 2, side + 12), name, _INK, font=font, anchor="ma", align="center")
    for number, text in enumerate(arrows):
        x, y = 8 + (number + 1) * side + number * gap, 8 + side // 2
        draw.line((x + 8, y, x + gap - 12, y), _INK, width=2)
        draw.polygon([(x + gap - 14, y - 5), (x + gap - 14, y + 5), (x + gap - 6, y)], _INK)
        draw.multiline_text((x + gap / 2 - 2, y - 10), text, _INK, font=font, anchor="md", align="center")
    return row


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--side-by-side", type=Path, metavar="RUNS", help="what recipes/side-by-side.yaml wrote")
    parser.add_argument("--tutorial", type=Path, metavar="RUN", help="what the tutorial's commands wrote")
    options = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    if options.side_by_side:
        side_by_side(options.side_by_side, PICTURES / "adapters.webp")
    elif options.tutorial:
        tutorial(options.tutorial)
    else:
        forming(PICTURES / "forming.webp")
        line(PICTURES / "line.webp")


if __name__ == "__main__":
    main()
