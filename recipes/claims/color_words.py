"""Captions with the colour of a picture's middle, and how often drawn pictures have the colour that was asked for.

    python recipes/claims/color_words.py caption train.parquet colored
    python recipes/claims/color_words.py heard runs/colors/samples --out runs/colors/results/colors.json

The word is a statistic of the pixels, so that nobody has to write captions, and what is drawn is judged by the rule
that named the training images. A few pairs of colour and class are never named (`UNSEEN`): whether their pictures have
the colour, too, shows whether the model puts words together.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from statistics import fmean

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from fae_core.errors import DataError, FAEError
from fae_core.files import staged_folder
from fae_core.folders import IMAGES
from fae_core.images import ImageSource, load_batch, open_images
from fae_core.images.grid import save_grid
from fae_eval.data.captions import sample_prompts
from fae_eval.results import Result, provenance

COLORS = ("red", "brown", "yellow", "green", "blue", "white", "grey", "black")
UNSEEN = (("red", "truck"), ("blue", "automobile"), ("white", "dog"), ("green", "bird"))
SHARE = 0.4  # of the middle's pixels that have to be of a colour


def color_word(picture: np.ndarray) -> str | None:
    """The colour of a picture's middle: of at least `SHARE` of the pixels of its inner half by height and width.

    Args:
        picture: (H, W, 3) uint8.

    Returns:
        One of `COLORS`; None where no colour has so many pixels.
    """
    height, width = picture.shape[:2]
    middle = picture[height // 4 : height - height // 4, width // 4 : width - width // 4]
    hue, saturation, value = np.moveaxis(np.asarray(Image.fromarray(middle).convert("HSV")), -1, 0).astype(int)
    degrees = hue * 360 / 256
    reddish, plain = (degrees < 20) | (degrees >= 330), saturation < 50
    chosen = [
        (value < 60, "black"),
        (plain & (value > 185), "white"),
        (plain, "grey"),
        (reddish & (value > 110) & (saturation > 110), "red"),
        (reddish | (degrees < 45), "brown"),
        (degrees < 70, "yellow"),
        (degrees < 170, "green"),
        (degrees < 260, "blue"),
    ]
    words = np.select([where for where, _ in chosen], [COLORS.index(word) for _, word in chosen], -1)
    word, count = Counter(words.ravel().tolist()).most_common(1)[0]
    return COLORS[word] if word >= 0 and count >= SHARE * words.size else None


def caption_of(picture: np.ndarray, name: str) -> str:
    """What training reads of a picture: "a photo of a COLOUR CLASS"; "a photo of a CLASS" where no colour may be named.

    Args:
        picture: (H, W, 3) uint8.
        name: Of its class.
    """
    color = color_word(picture)
    return f"a photo of a {name}" if color is None or (color, name) in UNSEEN else f"a photo of a {color} {name}"


def caption(source: Path, out: Path) -> None:
    """Copy a parquet file of images with a column of captions, and the names of its classes.

    Args:
        source: The file.
        out: The folder to make: images.parquet, classes.json.
    """
    images = open_images(source)
    if not images.labels or not images.classes:
        raise DataError(f"{source} has no labels with names")
    texts = [caption_of(np.asarray(images.read(i)), images.classes[label]) for i, label in enumerate(images.labels)]
    with staged_folder(out) as staging:
        pq.write_table(pq.read_table(source).append_column("caption", [texts]), staging / "images.parquet")
        (staging / "classes.json").write_text(json.dumps(images.classes))
    print(f"wrote {out}: {len(texts)} images, {len(set(texts))} captions")


def heard(samples: Path, out: Path) -> None:
    """Count how often pictures have the colour of their prompt, and save the record.

    A class's pictures without a colour in their prompt say how often it would have come by itself.

    Args:
        samples: A folder of `fae sample --prompts`.
        out: The record, .json; a grid of pictures is written beside it.
    """
    pictures = open_images(samples / IMAGES)
    prompts = sample_prompts(samples, len(pictures))
    drawn = [(*asked_of(text), color_word(np.asarray(pictures.read(i)))) for i, text in enumerate(prompts)]
    unasked: dict[str, list[str | None]] = {}  # the colours of a class's pictures where none was asked for
    for color, name, found in drawn:
        unasked.setdefault(name, []).extend([found] if color is None else [])
    pairs = {(color, name) for color, name, _ in drawn}
    if not pairs >= {*UNSEEN, *((color, name) for color in (None, *COLORS) for name in unasked)}:
        raise DataError(f"{samples} lacks pairs; draw at least one picture of each of prompts-colors.txt's lines")
    named = {(color, name) for color, name in pairs if color and (color, name) not in UNSEEN}
    groups = {"named in training": named, "never named together": {*UNSEEN}}
    groups |= {f"{color}, named": {pair for pair in named if pair[0] == color} for color in COLORS}
    groups |= {" ".join(pair): {pair} for pair in UNSEEN}
    rows = []
    for title, chosen in groups.items():
        of_group = [(color, name, found) for color, name, found in drawn if (color, name) in chosen]
        heard_of = fmean(found == color for color, _, found in of_group)
        by_itself = fmean(unasked[name].count(color) / len(unasked[name]) for color, name, _ in of_group)
        rows.append([title, len(of_group), heard_of, by_itself])
    record = Result("colours", "Colours that were asked for", provenance=provenance())
    record.table = {
        "columns": ["pairs", "pictures", "have the colour", "have it where none is asked for"],
        "rows": rows,
    }
    record.figures = [{"path": _pairs_grid(pictures, drawn, out).name, "caption": "A picture of every pair"}]
    record.notes = [f"A picture has the colour of at least {SHARE:.0%} of the pixels of its middle."]
    record.save(out)
    print(record.text())


def _pairs_grid(pictures: ImageSource, drawn: list[tuple[str | None, str, str | None]], out: Path) -> Path:
    """Save the first picture of each pair, a row for each colour, none at the top, beside the record."""
    first: dict[tuple[str | None, str], int] = {}
    for i, (color, name, _) in enumerate(drawn):
        first.setdefault((color, name), i)
    names = [name for color, name in first if color is None]
    cells = [first[color, name] for color in (None, *COLORS) for name in names]
    width, height = pictures.read(0).size
    images = load_batch(pictures, cells, (height, width))
    rows = ["no colour", *COLORS]
    return save_grid(images, out.with_suffix(".png"), len(names), row_labels=rows, column_labels=names, scale=2)


def asked_of(prompt: str) -> tuple[str | None, str]:
    """Colour, where there is one, and class of a prompt that `caption_of` could have written."""
    *_, color, name = prompt.split()
    return (color if color in COLORS else None), name


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("caption", help="images with captions")
    one.add_argument("source", type=Path)
    one.add_argument("out", type=Path)
    one.set_defaults(run=lambda asked: caption(asked.source, asked.out))
    other = commands.add_parser("heard", help="how often a colour is heard")
    other.add_argument("samples", type=Path)
    other.add_argument("--out", type=Path, required=True)
    other.set_defaults(run=lambda asked: heard(asked.samples, asked.out))
    asked = parser.parse_args()
    try:
        asked.run(asked)
    except FAEError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
