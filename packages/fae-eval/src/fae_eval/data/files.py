"""Images in files, as they are measured: opened before torch is imported, by commands and by the studies themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fae_core.errors import DataError
from fae_core.files import read_json
from fae_core.folders import IMAGES, SAMPLES_RECORD
from fae_core.images import ImageSource, open_surveyed
from fae_core.images.classes import check_labels
from fae_core.models.stored import checked_names
from fae_core.places import split_slice


def open_image_files(source: Any, survey: str | Path | None = None) -> ImageSource:
    """The images of a path, as `open_surveyed` gives them; of a folder of `fae sample` with their classes.

    Args:
        source: a path, or an ImageSource.
        survey: a report of `fae check` on the images; broken ones are left out.

    Raises:
        FAEError: as `open_surveyed`, and where what `fae sample` recorded is damaged.
    """
    if not isinstance(source, (str, Path)):
        return open_surveyed(source, report=survey)
    path, part = split_slice(str(source))
    folder = Path(path)
    if not (folder / SAMPLES_RECORD).is_file():
        return open_surveyed(source, report=survey)
    images = open_surveyed(f"{folder / IMAGES}{str(source)[len(path) :]}", report=survey)
    images.origin = str(source)
    if images.labels is None:
        images.labels, images.classes = _sampled_labels(folder, part, len(images))
    return images


def labels_of(source: ImageSource) -> list[int]:
    """The class of each image. Raises DataError where the source has none."""
    if source.labels is None:
        whose = "" if source.origin is None else f" of {source.origin}"
        raise DataError(f"the images{whose} have no labels; use one folder per class, or a labels.json")
    return list(source.labels)


def _sampled_labels(folder: Path, part: slice | None, count: int) -> tuple[list[int] | None, list[str] | None]:
    """Labels and class names that `fae sample` recorded, where they fit. Raises FAEError where they are no labels."""
    record, where = read_json(folder / SAMPLES_RECORD), str(folder / SAMPLES_RECORD)
    labels, names = record.get("labels"), checked_names(record.get("class_names"), where)
    labels = labels[part or slice(None)] if isinstance(labels, list) else None
    if labels is None or len(labels) != count:
        return None, None
    return check_labels(labels, None, where), list(names) if names else None
