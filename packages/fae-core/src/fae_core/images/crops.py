"""A small labelled dataset of random crops out of a few large images: how eight photographs become eight classes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from PIL.Image import Image

from fae_core.errors import DataError
from fae_core.files import staged_folder
from fae_core.folders import HELD_OUT, IMAGE_CLASSES, TRAIN
from fae_core.images.grid import to_pillow
from fae_core.images.readable import readable_images
from fae_core.images.resample import Box
from fae_core.images.source import ImageSource
from fae_core.images.transform import crop_boxes, crop_resize, jitter_colors, to_tensor
from fae_core.random import SlotRandom

_MOST_UNNAMED = 100_000  # classes without names, each of which gets a folder
_TRIES = 100  # draws of a held-out crop before giving up on finding one that training does not have


@dataclass(frozen=True)
class CropSettings:
    """How to crop.

    Attributes:
        size: side of the square result, in pixels.
        scale: (low, high) of the crop's side as a fraction of the image's short side.
        center: the part of the free range, around its middle, from which offsets are drawn, in [0, 1].
        jitter: the largest change of brightness, contrast and saturation, 0.05 = 5 %.
        seed: of all draws.
    """

    size: int
    scale: tuple[float, float] = (0.8, 1.0)
    center: float = 0.6
    jitter: float = 0.0
    seed: int = 0


def write_crops(
    source: ImageSource,
    out: str | Path,
    settings: CropSettings,
    *,
    count: int,
    held_out: int = 0,
    class_per_image: bool = False,
    overwrite: bool = False,
    log: Callable[[str], Any] = lambda line: None,
    progress: Callable[[int, str], AbstractContextManager[Any]] | None = None,
) -> Path:
    """Write crops to out/train and other ones to out/held-out, as PNGs in one folder per class, whole or not at all.

    Crops take turns among the classes and, within a class, among its images, so that all get equal shares. A crop
    depends on the seed, its number and its image alone; no held-out crop has the box of a training crop of the same
    image. Images that cannot be read are skipped.

    Args:
        source: the images.
        out: the new folder.
        settings: how to crop.
        count: how many crops to train on.
        held_out: how many other crops.
        class_per_image: make each image a class of its own; else images without labels give flat folders.
        overwrite: replace what is there.
        log: called with one line that names skipped images.
        progress: makes a progress bar of a total and a name.

    Returns:
        The folder.

    Raises:
        DataError: a number is out of range, no image can be read, or images have too few different crops.
        OutputExists: the folder is in use.
    """
    if count < 1 or held_out < 0 or settings.size < 1 or not 0 <= settings.jitter < 1:
        raise DataError("crops need a count and size of at least 1, held-out of at least 0 and a jitter below 1")
    read = {Path(source.name(index)).parent for index in range(len(source))}
    with staged_folder(out, overwrite=overwrite, inputs=sorted(read)) as staging:
        source = source.select(readable_images(source, log))
        classes = _class_folders(source, class_per_image)
        order = _round_robin(source.labels if classes and not class_per_image else None, len(source))
        plan = {split: _plan(order, total) for split, total in ((TRAIN, count), (HELD_OUT, held_out)) if total}
        for split in plan:
            _make_folders(staging / split, classes)
        with progress(count + held_out, "crops") if progress else nullcontext() as bar:
            for index in range(len(source)):
                for split, number, crop in _crops_of(source, index, plan, settings):
                    folder = _folder_of(source, index, classes, class_per_image)
                    file = staging / split / folder / f"{number + 1:0{max(4, len(str(count)))}d}.png"
                    crop.save(file, compress_level=1)  # more takes twice as long in all
                    if bar is not None:
                        bar.advance()
    return Path(out)


def _plan(order: Sequence[int], total: int) -> dict[int, list[int]]:
    """Which crop numbers each image gives: crop i comes from the i-th image of `order`, repeated without end."""
    plan: dict[int, list[int]] = {}
    for number in range(total):
        plan.setdefault(order[number % len(order)], []).append(number)
    return plan


def _round_robin(labels: list[int] | None, total: int) -> list[int]:
    """Image indices such that classes take turns. A class that has run out starts again: all get equal shares."""
    if labels is None:
        return list(range(total))
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    rounds = max(map(len, members.values()))
    columns = [[of_class[i % len(of_class)] for i in range(rounds)] for _, of_class in sorted(members.items())]
    return list(chain.from_iterable(zip_longest(*columns)))


def _crops_of(
    source: ImageSource, index: int, plan: dict[str, dict[int, list[int]]], settings: CropSettings
) -> Iterator[tuple[str, int, Image]]:
    """(split, number, crop) of all crops of one image."""
    numbers = {split: by_image.get(index, []) for split, by_image in plan.items()}
    if not any(numbers.values()):
        return
    image = source.read(index)
    taken: set[Box] = set()
    for split, wanted in numbers.items():  # training comes first: held-out crops avoid its boxes
        for number in wanted:
            box = _draw(image, split, number, settings, taken if split == HELD_OUT else frozenset())
            if box is None:
                raise DataError(
                    f"{source.name(index)}, {image.width}x{image.height}, has too few different crops to hold some "
                    "out; give larger images, or more of them (`fae crops` also takes a wider --scale)"
                )
            if split == TRAIN:
                taken.add(box)
            yield split, number, _cut(image, box, split, number, settings)


def _draw(
    image: Image, split: str, number: int, settings: CropSettings, taken: set[Box] | frozenset[Box]
) -> Box | None:
    """A random box that is not taken; None where none is found."""
    for attempt in range(_TRIES):
        random = SlotRandom(settings.seed, [number], step=attempt)
        (box,) = crop_boxes([image.size], random, scale=settings.scale, center=settings.center, stream=f"{split}/crop")
        if box not in taken:
            return box
    return None


def _cut(image: Image, box: Box, split: str, number: int, settings: CropSettings) -> Image:
    """The crop of a box, with its colours changed."""
    crop = crop_resize(image, box, settings.size)
    if not settings.jitter:
        return crop
    random = SlotRandom(settings.seed, [number])
    return to_pillow(jitter_colors(to_tensor(crop)[None], settings.jitter, random, stream=f"{split}/jitter")[0])


def _class_folders(source: ImageSource, class_per_image: bool) -> list[tuple[str, str]]:
    """(folder, class name) by label; empty where there are no classes."""
    if class_per_image:
        names = [Path(source.name(index)).stem for index in range(len(source))]
    elif source.labels is None:
        return []
    else:
        if source.classes is None and max(source.labels) >= _MOST_UNNAMED:
            raise DataError(f"labels go up to {max(source.labels)}, and no classes.json names them; number them from 0")
        names = source.classes or [str(label) for label in range(max(source.labels) + 1)]
    folders = [re.sub(r"[^\w.-]+", "_", name).strip("._") for name in names]
    if len({folder.lower() for folder in folders}) < len(folders) or not all(folders):
        folders = [f"{label:0{len(str(len(names)))}d}-{folder}" for label, folder in enumerate(folders)]
    return list(zip(folders, names, strict=True))


def _folder_of(source: ImageSource, index: int, classes: list[tuple[str, str]], class_per_image: bool) -> str:
    """The folder of an image's crops, within the split's."""
    if class_per_image or source.labels is None:
        return classes[index][0] if classes else ""
    return classes[source.labels[index]][0]


def _make_folders(folder: Path, classes: list[tuple[str, str]]) -> None:
    """Make a split's folders and its classes.json."""
    folder.mkdir()
    for name, _ in classes:
        (folder / name).mkdir()
    if classes:
        entries = [{"index": i, "wnid": name, "name": title} for i, (name, title) in enumerate(classes)]
        (folder / IMAGE_CLASSES).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
