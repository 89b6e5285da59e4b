"""Which text belongs to which image: prompts in the order of samples, and captions by image name.

torch is not imported: commands look before it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fae_core.errors import DataError
from fae_core.files import read_json
from fae_core.folders import SAMPLES_RECORD
from fae_core.images import ImageSource
from fae_core.images.captions import json_object, read_lines
from fae_core.sampling.prompts import read_prompts


def sample_prompts(folder: Path, count: int) -> list[str]:
    """The prompt of each of the `count` images in a folder that `fae sample --prompts` wrote.

    Raises:
        DataError: where it is no such folder.
    """
    record = read_json(folder / SAMPLES_RECORD) if (folder / SAMPLES_RECORD).is_file() else {}
    job = record.get("job")
    prompts = job.get("prompts") if isinstance(job, dict) else None
    labels = record.get("labels")
    if not (
        (isinstance(prompts, list) and prompts)
        and (isinstance(labels, list) and len(labels) == count)
        and all(type(label) is int and 0 <= label < len(prompts) for label in labels)
    ):
        raise DataError(f"{folder} does not say which prompt each image was drawn for; give --prompts")
    return [str(prompts[label]) for label in labels]


class Prompts(NamedTuple):
    """What images were drawn for.

    Attributes:
        texts: one per image, in order.
        origin: the file that says it, or what else does.
    """

    texts: list[str]
    origin: str


def prompts_of(origin: str, count: int, prompts: str | Path | Sequence[str] | None) -> Prompts:
    """The prompt of each of some images.

    Args:
        origin: where the images come from; a folder of `fae sample --prompts` says what they were drawn for.
        count: how many there are.
        prompts: one for each, in order, or a file of them; None reads those of the folder.

    Raises:
        DataError: where there are none, or another number.
    """
    if prompts is None:
        return Prompts(sample_prompts(Path(origin), count), "of the samples")
    if isinstance(prompts, (str, Path)):
        found = Prompts(list(read_prompts(Path(prompts))), str(prompts))
    else:
        found = Prompts(list(prompts), "a list")
    if len(found.texts) != count:
        raise DataError(f"{found.origin} has {len(found.texts)} prompts for {count} images")
    return found


class PairedCaptions(NamedTuple):
    """Images of a source and their texts.

    Attributes:
        indices: of the images that are described, ascending.
        texts: all of them.
        owner: for each text the position of its image among `indices`.
        origin: the file that says it.
    """

    indices: list[int]
    texts: list[str]
    owner: list[int]
    origin: str


def paired_captions(source: ImageSource, path: Path) -> PairedCaptions:
    """Which images a file describes, and with which texts.

    Args:
        source: the images.
        path: a .jsonl with "image" (file name) and "caption" a line, where every image named must be there; or COCO's
            captions_*.json, of which the captions of the images that are there are taken.

    Raises:
        DataError: where names are ambiguous, or nothing fits.
    """
    places: dict[str, int] = {}
    for index in range(len(source)):
        if places.setdefault(Path(source.name(index)).name, index) != index:
            raise DataError(f"two images are called {Path(source.name(index)).name}; captions cannot be assigned")
    pairs = _json_lines(path) if path.suffix == ".jsonl" else _coco_captions(path)
    missing = [name for name, _ in pairs if name not in places]
    if missing and path.suffix == ".jsonl":
        raise DataError(f"{path} describes {missing[0]}, which is not among the images")
    pairs = [(places[name], text) for name, text in pairs if name in places]
    if not pairs:
        raise DataError(f"{path} describes none of the images")
    indices = sorted({index for index, _ in pairs})
    position = {index: place for place, index in enumerate(indices)}
    owner = [position[index] for index, _ in pairs]
    return PairedCaptions(indices, [text for _, text in pairs], owner, str(path))


def _json_lines(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise DataError(f"{path} is not a file")
    pairs = []
    for number, line in read_lines(path):
        row = json_object(line, f"{path}:{number}")
        if not isinstance(row.get("image"), str) or not isinstance(row.get("caption"), str):
            raise DataError(f"{path}:{number}: expected a JSON object with image and caption per line, both text")
        pairs.append((Path(row["image"]).name, " ".join(row["caption"].split())))
    return pairs


def _coco_captions(path: Path) -> list[tuple[str, str]]:
    stored: dict[str, Sequence[Any]] = read_json(path, max_bytes=2**30)
    try:
        names = {int(image["id"]): str(image["file_name"]) for image in stored["images"]}
        ordered = sorted(stored["annotations"], key=lambda entry: int(entry["id"]))
        return [(names[int(entry["image_id"])], " ".join(str(entry["caption"]).split())) for entry in ordered]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is not COCO's caption annotations: {type(error).__name__} {error}") from None
