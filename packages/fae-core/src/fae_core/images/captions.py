"""Captions that stand in files beside images: metadata.jsonl, or one text file for each image."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, overload

from fae_core.documents import parse_json, read_text
from fae_core.errors import DataError
from fae_core.folders import IMAGE_METADATA
from fae_core.images.tell import tell

SIDECAR_SUFFIX = ".txt"
CAPTION_KEYS = ("caption", "text")
_MAX_SIDECAR = 2**20
_MAX_LINES = 2**32


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines of a UTF-8 file, with or without a byte order mark, blank ones left out.

    Only line feeds end a line: captions may hold Unicode's other separators. Raises DataError.
    """
    text = read_text(path, max_bytes=_MAX_LINES, error=DataError)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def json_object(line: str, where: str) -> dict[str, Any]:
    """The JSON object in a line. Raises DataError where it is something else, or holds halves of characters."""
    try:
        entry = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where} is not a JSON object of whole characters: {error}") from None
    if not isinstance(entry, dict):
        raise DataError(f"{where} is not a JSON object")
    return entry


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
            return " ".join(read_text(path, max_bytes=_MAX_SIDECAR, error=DataError).split())
        except DataError as error:
            raise DataError(f"cannot read the caption: {error}") from None


def read_captions(folder: Path, files: Sequence[str], texts: Collection[str]) -> Sequence[str] | None:
    """The captions of `files` (paths within `folder`), or None where there are none.

    metadata.jsonl, as Hugging Face's image folders have it, comes first: a line {"file_name": ..., "caption" or "text": ...}
    for each image. Else NAME.txt beside NAME.jpg, all of them in `texts` (paths within `folder`). Raises DataError where one
    image has a caption and another has none; an empty caption is one.
    """
    listed = _read_metadata(folder / IMAGE_METADATA)
    if listed is not None:
        _require_all([name for name in files if name not in listed], folder / IMAGE_METADATA)
        strangers = listed.keys() - set(files)
        if strangers:
            described = f"{len(strangers)} files that are not among the images, such as {min(strangers)}"
            tell(f"{folder / IMAGE_METADATA} describes {described}")
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
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        entry = json_object(line, where)
        name = entry.get("file_name")
        if not isinstance(name, str):
            raise DataError(f"{where} has no file_name")
        caption = next((entry[key] for key in CAPTION_KEYS if key in entry), None)
        if caption is None:
            continue
        if not isinstance(caption, str):
            raise DataError(f"{where}: the caption of {name} is not text")
        if captions.setdefault(name, caption) != caption:
            raise DataError(f"{where} has another caption for {name}, which was described before")
    return captions or None
