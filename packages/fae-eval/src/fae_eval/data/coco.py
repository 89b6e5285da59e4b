"""MS-COCO text-to-image evaluation as U-ViT and the paper do it: which captions to draw, and what to compare with.

30,000 images of val2014: the largest centred square of each, resized to 256 pixels with Lanczos, and one of its
captions, chosen at random. The choice is a pure function of (seed, image id). Compare samples and reference.npz with
the extractor inception.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fae_core.errors import DataError
from fae_core.files import read_json, write_atomic
from fae_core.folders import PROMPTS, REFERENCE
from fae_core.images import decode_image
from fae_core.random import derive_seed
from fae_eval.data.adm import write_adm

COUNT, SIZE = 30_000, 256


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
    try:
        names = {int(image["id"]): str(image["file_name"]) for image in annotations["images"]}
        captions: dict[int, list[tuple[int, str]]] = {}
        for entry in annotations["annotations"]:
            captions.setdefault(int(entry["image_id"]), []).append(
                (int(entry["id"]), " ".join(str(entry["caption"]).split()))
            )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"these are not COCO's caption annotations: {type(error).__name__} {error}") from None
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
    progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Write prompts.jsonl (one caption a line, in the order of the samples to draw) and reference.npz.

    Args:
        annotations: captions_val2014.json.
        images: the folder val2014.
        out: folder to write into.
        count: how many images.
        size: side of the reference images in pixels.
        seed: of the choice of images and captions.
        progress: called with 1 for each image that is cropped.

    Returns:
        The paths of prompts.jsonl and reference.npz.

    Raises:
        DataError: where the annotations do not fit, or an image is missing.
    """
    chosen = choose_captions(read_json(annotations, max_bytes=2**30), count, seed)
    outside = next((entry["image"] for entry in chosen if Path(entry["image"]).name != entry["image"]), None)
    if outside is not None:
        raise DataError(f"the annotations name {outside}, which is no file name in {images}")
    missing = next((entry["image"] for entry in chosen if not (images / entry["image"]).is_file()), None)
    if missing is not None:
        raise DataError(f"{images} lacks {missing}, which the annotations name")

    def squares() -> Iterator[np.ndarray]:
        for entry in chosen:
            yield np.asarray(centre_square(decode_image(images / entry["image"]), size), np.uint8)[None]
            if progress is not None:
                progress(1)

    reference = write_adm(out / REFERENCE, squares(), count)
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in chosen)
    write_atomic(out / PROMPTS, lines.encode(errors="replace"))
    return [out / PROMPTS, reference]
