"""A folder of image files, flat or with one subfolder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fae_core.digests import FileDigests
from fae_core.errors import DataError
from fae_core.images.captions import SIDECAR_SUFFIX, read_captions
from fae_core.images.classes import class_list, read_classes, read_labels
from fae_core.images.decode import SUFFIXES, decode_image
from fae_core.images.sources import ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image


class FolderImages(ImageSource):
    """Image files in the order of their names; hidden files and folders, and files of other kinds, are passed over.

    With subfolders, each holds the images of one class: class i is the i-th subfolder that has images, unless classes.json
    says otherwise. Captions come from metadata.jsonl or text files (see `read_captions`). Raises DataError where there is no image, or images lie both beside and inside subfolders.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        own, subfolders, texts = _list(self.folder)
        listings = {name: _list(self.folder / name) for name in subfolders}
        inside = {name: files for name, (files, _, _) in listings.items() if files}
        listed = read_classes(self.folder)
        if own and inside:
            raise DataError(
                f"{self.folder} holds images both beside and inside of subfolders ({next(iter(inside))}); use one layout"
            )
        if own:
            self._files = own
            self.labels = read_labels(self.folder, own, listed)
            self.classes = listed.names if listed and self.labels is not None else None
        elif inside:
            classes = listed or class_list(list(inside), str(self.folder))
            numbers = {name: classes.label(name, str(self.folder)) for name in inside}
            self._files = [f"{name}/{file}" for name, files in inside.items() for file in files]
            self.labels = [numbers[name] for name, files in inside.items() for _ in files]
            self.classes = classes.names
        else:
            raise DataError(f"{self.folder} holds no images ({', '.join(sorted(SUFFIXES))}){self._hint(subfolders)}")
        beside = texts | {f"{name}/{text}" for name in inside for text in listings[name][2]}
        self.captions = read_captions(self.folder, self._files, beside)

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Image:
        return decode_image(self.folder / self._files[index])

    def name(self, index: int) -> str:
        return str(self.folder / self._files[index])

    def content(self, digests: FileDigests, indices: Sequence[int] | None = None) -> Iterator[str]:
        chosen = range(len(self)) if indices is None else indices
        yield from digests.of_many([self.folder / self._files[i] for i in chosen])
        if self.captions is not None:
            yield from (self.captions[i] for i in chosen)

    def _hint(self, subfolders: list[str]) -> str:
        splits = [name for name in subfolders if any(_list(self.folder / name)[:2])]
        return f"; did you mean {' or '.join(str(self.folder / name) for name in splits[:2])}?" if splits else ""


class ImageFile(ImageSource):
    """One image file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> Image:
        return decode_image(self.path)

    def name(self, index: int) -> str:
        return str(self.path)

    def content(self, digests: FileDigests, indices: Sequence[int] | None = None) -> Iterator[str]:
        yield from (digests.of(self.path) for _ in (range(1) if indices is None else indices))


def _list(folder: Path) -> tuple[list[str], list[str], set[str]]:
    """Names of the image files and of the subfolders of `folder`, sorted, and of its text files."""
    files, folders, texts = [], [], set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif Path(entry.name).suffix.lower() in SUFFIXES:
                    files.append(entry.name)
                elif entry.name.endswith(SIDECAR_SUFFIX):
                    texts.add(entry.name)
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from None
    return sorted(files), sorted(folders), texts
