"""Captions that stand in files beside images: metadata.jsonl, or one text file for each image."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import overload

from fae_core.errors import DataError

METADATA_FILE = "metadata.jsonl"
SIDECAR_SUFFIX = ".txt"
CAPTION_KEYS = ("caption", "text")
_MAX_SIDECAR = 2**20


class Picked(Sequence[str]):
    """Some texts of a sequence, in the order of `indices`, fetched when they are asked for."""

    def __init__(self, texts: Sequence[str], indices: Sequence[int]) -> None:
        self._texts, self._indices = texts, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return Picked(self._texts, self._indices[index])
        return self._texts[self._indices[index]]


class Sidecars(Sequence[str]):
    """The text files beside images, read when they are asked for; raises DataError, naming the file, where that fails."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return Sidecars(self._paths[index])
        path = self._paths[index]
        try:
            if path.stat().st_size > _MAX_SIDECAR:
                raise DataError(f"{path} is no caption: it has more than 1 MiB")
            return " ".join(path.read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the caption {path}: {error}") from None


def read_captions(folder: Path, files: Sequence[str], texts: Collection[str]) -> Sequence[str] | None:
    """The captions of `files` (paths within `folder`), or None where there are none.

    metadata.jsonl, as Hugging Face's image folders have it, comes first: a line {"file_name": ..., "caption" or "text": ...}
    for each image. Else NAME.txt beside NAME.jpg, all of them in `texts` (paths within `folder`). Raises DataError where one
    image has a caption and another has none; an empty caption is one.
    """
    listed = _read_metadata(folder / METADATA_FILE)
    if listed is not None:
        _require_all([name for name in files if name not in listed], folder / METADATA_FILE)
        return [listed[name] for name in files]
    beside = [str(Path(name).with_suffix(SIDECAR_SUFFIX).as_posix()) for name in files]
    missing = [name for name, text in zip(files, beside, strict=True) if text not in texts]
    if len(missing) == len(files):
        return None
    _require_all(missing, f"{folder}, where other images have a {SIDECAR_SUFFIX} file,")
    return Sidecars([folder / text for text in beside])


def _require_all(missing: list[str], where: Path | str) -> None:
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{where} has no caption for {missing[0]}{more}")


def _read_metadata(path: Path) -> dict[str, str] | None:
    """Captions by file name; None where the file is absent or its lines have no captions."""
    if not path.is_file():
        return None
    captions: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    _add_line(captions, line, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    return captions or None


def _add_line(captions: dict[str, str], line: str, where: str) -> None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{where} is not a JSON object") from None
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
        raise DataError(f"{where} has no file_name")
    caption = next((entry[key] for key in CAPTION_KEYS if key in entry), None)
    if caption is None:
        return
    if not isinstance(caption, str):
        raise DataError(f"{where}: the caption of {entry['file_name']} is not text")
    captions[entry["file_name"]] = caption
