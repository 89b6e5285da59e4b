"""MS-COCO text-to-image evaluation as U-ViT and the paper do it: which captions to draw, and what to compare with.

30,000 images of val2014: the largest centred square of each, resized to 256 pixels with Lanczos, and one of its
captions, chosen at random. The choice is a pure function of (seed, image id). Compare samples and a reference with the
extractor inception. The paper does not say which reference it takes. There are three:

- "same": the 30,000 images whose captions are drawn.
- "val2014": all 40,504 images of val2014, the split from which U-ViT draws its captions.
- U-ViT's own file, fid_stats_mscoco256_val.npz (its repository links to it): a mean and a covariance by pytorch-fid,
  which `fae eval generation --reference` takes as it is. U-ViT does not say over how many images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from fae_core.errors import DataError
from fae_core.files import read_json, write_atomic
from fae_core.folders import PROMPTS, REFERENCE, REFERENCE_VAL2014
from fae_core.images import decode_image
from fae_core.progress import Bar
from fae_core.random import derive_seed
from fae_eval.data.adm import write_adm

COUNT, SIZE = 30_000, 256
VAL2014 = 40_504  # images

ReferenceSet = Literal["same", "val2014", "both"]


def choose_captions(annotations: dict[str, Any], count: int = COUNT, seed: int = 0) -> list[dict[str, Any]]:
    """One caption of each image, in an order that depends on the seed only.

    Args:
        annotations: the content of captions_val2014.json.
        count: how many images.
        seed: of the choice.

    Returns:
        One {"image": file name, "image_id", "caption"} per image.

    Raises:
        DataError: where the annotations have another layout, or too few images.
    """
    names = image_names(annotations)
    try:
        captions: dict[int, list[tuple[int, str]]] = {}
        for entry in annotations["annotations"]:
            captions.setdefault(int(entry["image_id"]), []).append(
                (int(entry["id"]), " ".join(str(entry["caption"]).split()))
            )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _no_annotations(error) from None
    described = [number for number in names if captions.get(number)]
    if len(described) < count:
        raise DataError(f"{count} images with captions are wanted, the annotations have {len(described)}")
    described.sort(key=lambda number: derive_seed(seed, "image", number))
    chosen = []
    for number in described[:count]:
        texts = sorted(captions[number])
        text = texts[derive_seed(seed, "caption", number) % len(texts)][1]
        chosen.append({"image": names[number], "image_id": number, "caption": text})
    return chosen


def image_names(annotations: dict[str, Any]) -> dict[int, str]:
    """File name by image id, from the content of captions_val2014.json. Raises DataError for another layout."""
    try:
        return {int(image["id"]): str(image["file_name"]) for image in annotations["images"]}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _no_annotations(error) from None


def _no_annotations(error: Exception) -> DataError:
    return DataError(f"these are not COCO's caption annotations: {type(error).__name__} {error}")


def centre_square(image: Image.Image, size: int = SIZE) -> Image.Image:
    """The largest centred square of an image, resized to `size` pixels a side with Lanczos."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)


def write_coco(
    annotations: Path,
    images: Path,
    out: Path,
    *,
    count: int = COUNT,
    size: int = SIZE,
    seed: int = 0,
    reference: ReferenceSet = "same",
    progress: Callable[..., AbstractContextManager[Bar]] | None = None,
) -> list[Path]:
    """Write prompts.jsonl (one caption a line, in the order of the samples to draw) and the references.

    Args:
        annotations: captions_val2014.json.
        images: the folder val2014.
        out: folder to write into.
        count: how many images get a sample.
        size: side of the reference images in pixels.
        seed: of the choice of images and captions.
        reference: "same" writes reference.npz, the images whose captions are chosen, in their order; "val2014" writes
            reference-val2014.npz, all images that the annotations name; or "both".
        progress: `fae_core.progress.progress`, or anything called like it.

    Returns:
        The paths of prompts.jsonl and of the references.

    Raises:
        DataError: where the annotations do not fit, or an image is missing.
    """
    content = read_json(annotations, max_bytes=2**30)
    chosen = choose_captions(content, count, seed)
    sets: dict[str, tuple[list[str], str]] = {}
    if reference != "val2014":
        about = f"the same {count:,} images of COCO val2014 whose captions are drawn (seed {seed})"
        sets[REFERENCE] = [entry["image"] for entry in chosen], about
    if reference != "same":
        names = [name for _, name in sorted(image_names(content).items())]
        whose = ", the split of U-ViT's captions" if len(names) == VAL2014 else ""
        sets[REFERENCE_VAL2014] = names, f"all {len(names):,} images of COCO val2014{whose}"
    for names, _ in sets.values():
        outside = next((name for name in names if Path(name).name != name), None)
        if outside is not None:
            raise DataError(f"the annotations name {outside}, which is no file name in {images}")
        missing = next((name for name in names if not (images / name).is_file()), None)
        if missing is not None:
            raise DataError(f"{images} lacks {missing}, which the annotations name")
    written = []
    for file, (names, about) in sets.items():
        with nullcontext() if progress is None else progress(len(names), f"cropping for {file}") as bar:
            squares = _squares(images, names, size, bar)
            written.append(write_adm(out / file, squares, len(names), about=about))
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in chosen)
    write_atomic(out / PROMPTS, lines.encode(errors="replace"))
    return [out / PROMPTS, *written]


def _squares(images: Path, names: list[str], size: int, bar: Bar | None) -> Iterator[np.ndarray]:
    for name in names:
        yield np.asarray(centre_square(decode_image(images / name), size), np.uint8)[None]
        if bar is not None:
            bar.advance(1)
