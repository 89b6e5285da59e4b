"""Captions in files beside images: metadata.jsonl, or one text file for each image.

An image may have several captions. They travel as one text, with `SEPARATOR` between them, through every source and
latent store; `split_captions` takes it apart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

from fae_core.documents import parse_json, read_text
from fae_core.errors import DataError
from fae_core.folders import IMAGE_METADATA
from fae_core.images.formats import printable
from fae_core.images.tell import log_on_first_process

SIDECAR_SUFFIX = ".txt"
# Of files in which captions may have been meant; all but .txt files and metadata.jsonl are not read.
TEXT_SUFFIXES = frozenset({SIDECAR_SUFFIX, ".caption", ".csv", ".tsv", ".json", ".jsonl"})
_DOCUMENTS = frozenset({"readme", "license", "licence", "copying", "notice", "changelog", "citation"})
CAPTION_KEYS = ("caption", "text")
CAPTIONS_KEY = "captions"
SEPARATOR = "\x1e"  # ASCII's record separator
_MAX_SIDECAR = 2**20
_MAX_LINES = 2**32


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines of a UTF-8 file, with or without a byte order mark, blank ones left out.

    Only line feeds end a line: captions may hold Unicode's other separators.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    text = read_text(path, max_bytes=_MAX_LINES, error=DataError)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def json_object(line: str, where: str) -> dict[str, Any]:
    """The JSON object in a line.

    Args:
        line: the text.
        where: what errors call it.

    Raises:
        DataError: it is something else, or holds halves of surrogate pairs.
    """
    try:
        entry = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where} is not a JSON object of whole characters: {error}") from None
    if not isinstance(entry, dict):
        raise DataError(f"{where} is not a JSON object")
    return entry


def one_caption(entry: dict[str, Any]) -> Any:
    """What an object about an image has as its "caption" or "text"; None where both are absent or null."""
    return next((entry[key] for key in CAPTION_KEYS if entry.get(key) is not None), None)


def join_captions(captions: Any, where: str) -> str:
    """One text of an image's captions.

    Args:
        captions: a list of at least one text.
        where: what errors call it.

    Raises:
        DataError: it is something else, or one of several texts holds the separator.
    """
    if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
        raise DataError(f"{where} are no list of texts")
    if any(SEPARATOR in text for text in captions):
        raise DataError(f"{where} hold the character U+001E, which separates captions; remove it")
    return SEPARATOR.join(captions)


def split_captions(text: str) -> list[str]:
    """The captions of an image, in order, from the text that `join_captions` makes."""
    return text.split(SEPARATOR)


class LazyTexts(Sequence[str]):
    """Texts that are read when they are asked for.

    Args:
        read: gives the text of an index.
        indices: which indices, in order.
    """

    def __init__(self, read: Callable[[int], str], indices: Sequence[int]) -> None:
        self._read, self._indices = read, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return LazyTexts(self._read, self._indices[index])
        return self._read(self._indices[index])


def _read_sidecar(folder: Path, names: Sequence[str], index: int) -> str:
    """The text file beside an image. Raises DataError, naming the file, where it cannot be read."""
    try:
        return " ".join(read_text(folder / names[index], max_bytes=_MAX_SIDECAR, error=DataError).split())
    except DataError as error:
        raise DataError(f"cannot read the caption: {error}") from None


def read_captions(
    folder: Path, files: Sequence[str], texts: Collection[str]
) -> tuple[Sequence[str] | None, list[str] | None]:
    """The captions of images in a folder.

    metadata.jsonl, as Hugging Face's image folders have it, comes first: a line {"file_name": ..., "caption" or
    "text": ...} for each image, or "captions" with a list of several. Without it, NAME.txt beside NAME.jpg, in upper or
    lower case. An empty caption counts as one. Where there are none, a warning counts the other files that may have
    been meant, and names one.

    Args:
        folder: where the images are.
        files: paths of the images, relative to the folder.
        texts: paths of all files with one of `TEXT_SUFFIXES`, relative to the folder.

    Returns:
        One text for each image, in order, or None where there are none; `split_captions` gives its captions. And the
        paths of the images' own text files, relative to the folder; None where there are none.

    Raises:
        DataError: one image has a caption and another has none, an image has two text files, or metadata.jsonl is
            damaged.
    """
    listed = _read_metadata(folder / IMAGE_METADATA)
    if listed is not None:
        _require_all([name for name in files if name not in listed], folder / IMAGE_METADATA)
        others = listed.keys() - set(files)
        if others:
            described = f"{len(others)} files that are not among the images, such as {min(others)}"
            log_on_first_process(f"{folder / IMAGE_METADATA} describes {described}")
        return [listed[name] for name in files], None
    if not texts:
        return None, None
    stems = [_stem(name) for name in files]
    sidecars = [text for text in texts if text.lower().endswith(SIDECAR_SUFFIX)]
    beside = {_stem(text): text for text in sidecars}
    missing = [name for name, stem in zip(files, stems, strict=True) if stem not in beside]
    if len(missing) == len(files):
        _tell_unread(folder, texts, set(stems))
        return None, None
    _require_all(missing, f"{folder}, where other images have a {SIDECAR_SUFFIX} file,")
    if len(beside) < len(sidecars):
        known = set(stems)
        for text in sidecars:
            if beside[_stem(text)] != text and _stem(text) in known:
                raise DataError(f"{folder} has {text} and {beside[_stem(text)]} for one image; remove one")
    own = [beside[stem] for stem in stems]
    return LazyTexts(partial(_read_sidecar, folder, own), range(len(own))), own


def _stem(path: str) -> str:
    """A path without its last suffix."""
    return path.rpartition(".")[0]


def _tell_unread(folder: Path, texts: Collection[str], stems: Collection[str]) -> None:
    """Log that no captions are read from files that may hold some: a .json file beside its image, any other text."""
    documents = {text for text in texts if text.rpartition("/")[2].partition(".")[0].lower() in _DOCUMENTS}
    left_out = [t for t in texts if t not in documents and (not t.lower().endswith(".json") or _stem(t) in stems)]
    if left_out:
        log_on_first_process(
            f"{folder}: no captions are read; {len(left_out)} files are left out, such as {printable(min(left_out))} "
            f'(captions are NAME{SIDECAR_SUFFIX} beside each image, or lines with "file_name" and "caption", "text" or '
            f'"captions" in {IMAGE_METADATA} of this folder)'
        )


def _require_all(missing: list[str], where: Path | str) -> None:
    """Raise DataError, naming an image, unless none lacks a caption."""
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{where} has no caption for {missing[0]}{more}")


def _read_metadata(path: Path) -> dict[str, str] | None:
    """Captions by file name; None where metadata.jsonl is absent or its lines have no captions."""
    if not path.is_file():
        return None
    captions: dict[str, str] = {}
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        entry = json_object(line, where)
        name = entry.get("file_name")
        if not isinstance(name, str):
            raise DataError(f"{where} has no file_name")
        caption = one_caption(entry)
        if caption is None and CAPTIONS_KEY in entry:
            caption = join_captions(entry[CAPTIONS_KEY], f"{where}: the captions of {name}")
        if caption is None:
            continue
        if not isinstance(caption, str):
            raise DataError(f"{where}: the caption of {name} is not text")
        if captions.setdefault(name, caption) != caption:
            raise DataError(f"{where} has another caption for {name}, which was described before")
    return captions or None
