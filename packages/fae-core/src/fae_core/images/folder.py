"""A folder of image files, flat or with one subfolder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fae_core.commands.running import is_first_process
from fae_core.errors import DataError
from fae_core.folders import IMAGE_CLASSES
from fae_core.images.captions import TEXT_SUFFIXES, LazyTexts, read_captions
from fae_core.images.classes import class_list, find_labels, read_classes
from fae_core.images.decode import decode_image, read_bytes
from fae_core.images.formats import OTHER_SUFFIXES, SHARD_SUFFIXES, SUFFIXES, printable
from fae_core.images.source import ImageSource
from fae_core.images.splits import are_splits
from fae_core.images.tell import log_on_first_process
from fae_core.progress import progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from fae_core.files.digests import Digests


class FolderImages(ImageSource):
    """Image files in the order of their names. Hidden files and folders, and files of other kinds, are skipped.

    With subfolders, each holds the images of one class: class i is the i-th subfolder that has images, unless
    classes.json lists them in another order, or a file says of which class each image is (see `find_labels`). Captions
    come from metadata.jsonl or text files (see `read_captions`). A warning counts images in other formats or in deeper
    folders, and names one; another one does so of files of text where there are no captions.

    Args:
        folder: where the images are.

    Raises:
        DataError: there is no image, images are both beside and inside subfolders, or labels or captions do not match.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        own, subfolders, texts, others, _ = _list(self.folder)
        listings: dict[str, _Listing] = {}
        with progress(len(subfolders), "listing folders", enabled=is_first_process(), brief=True) as bar:
            for name in subfolders:
                listings[name] = _list(self.folder / name)
                bar.advance()
        inside = {name: listing.files for name, listing in listings.items() if listing.files}
        listed = read_classes(self.folder)
        if own and inside:
            raise DataError(
                f"{self.folder} holds images both beside and inside of subfolders ({next(iter(inside))}); use one "
                "layout"
            )
        self._files = own or [f"{name}/{file}" for name, files in inside.items() for file in files]
        labelled = find_labels(self.folder)
        if own or (inside and labelled):
            self.labels = labelled.of(self._files, listed) if labelled else None
            self.classes = listed.names if listed and self.labels is not None else None
        elif inside:
            if are_splits(list(inside)) and listed is None:
                raise DataError(
                    f"{self.folder} holds the splits {', '.join(inside)}, which are no classes; choose one, as in "
                    f"{self.folder / next(iter(inside))}, or list them in {IMAGE_CLASSES}"
                )
            classes = listed or class_list(list(inside), str(self.folder))
            numbers = {name: classes.label(name, str(self.folder)) for name in inside}
            self.labels = [numbers[name] for name, files in inside.items() for _ in files]
            self.classes = classes.names
        else:
            raise DataError(f"{self.folder} holds no images ({', '.join(sorted(SUFFIXES))}){self._hint(subfolders)}")
        texts |= {f"{name}/{text}" for name, listing in listings.items() for text in listing.texts}
        self.captions, self._sidecars = read_captions(self.folder, self._files, texts)
        deeper = [f"{name}/{below}" for name, listing in listings.items() for below in listing.folders]
        others += [f"{name}/{file}" for name, listing in listings.items() for file in listing.others]
        others += _images_below(self.folder, deeper)
        if others:
            log_on_first_process(
                f"{self.folder}: {len(others)} files are left out, such as {printable(others[0])}: they are in folders "
                f"further down, or in formats that are not read ({', '.join(sorted(SUFFIXES))} are)"
            )

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Image:
        return decode_image(self._path(index))

    def encoded(self, index: int) -> bytes:
        return read_bytes(self._path(index))

    def name(self, index: int) -> str:
        return printable(self._path(index))

    def content(self, digests: Digests, indices: Sequence[int] | None = None) -> Iterator[str]:
        chosen = range(len(self)) if indices is None else indices
        yield from digests.of_many(LazyTexts(self._path, chosen), unreadable="unreadable")
        if self.captions is not None:
            sidecars = self._sidecars  # None where all captions are in one file
            paths = None if sidecars is None else LazyTexts(lambda index: f"{self.folder}/{sidecars[index]}", chosen)
            yield from digests.of_texts(LazyTexts(self.captions.__getitem__, chosen), paths)

    def _path(self, index: int) -> str:
        """The path of an image."""
        return f"{self.folder}/{self._files[index]}"

    def _hint(self, subfolders: list[str]) -> str:
        """Which subfolders may have been meant."""
        listings = {name: _list(self.folder / name) for name in subfolders}
        splits = [name for name, listing in listings.items() if listing.files or listing.folders or listing.shards]
        return f"; did you mean {' or '.join(str(self.folder / name) for name in splits[:2])}?" if splits else ""


class ImageFile(ImageSource):
    """One image file.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> Image:
        return decode_image(self.path)

    def encoded(self, index: int) -> bytes:
        return read_bytes(self.path)

    def name(self, index: int) -> str:
        return printable(self.path)

    def content(self, digests: Digests, indices: Sequence[int] | None = None) -> Iterator[str]:
        yield from (digests.of(self.path) for _ in (range(1) if indices is None else indices))


class _Listing(NamedTuple):
    """Names in a folder, sorted: image files, folders, files of text, images in formats that are not read, shards."""

    files: list[str]
    folders: list[str]
    texts: set[str]
    others: list[str]
    shards: list[str]


def _images_below(folder: Path, below: list[str]) -> list[str]:
    """The image files at any depth in some folders below one, relative to it. Raises DataError.

    Links to folders are not followed further down, where they may lead back.
    """
    pending, found = below[::-1], list[str]()
    while pending:
        name = pending.pop()
        listing = _list(folder / name)
        found += [f"{name}/{file}" for file in listing.files]
        pending += [f"{name}/{inner}" for inner in listing.folders if not (folder / name / inner).is_symlink()]
    return found


def _list(folder: Path) -> _Listing:
    """What is directly in a folder. Raises DataError where it cannot be read."""
    listing = _Listing([], [], set(), [], [])
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                _, dot, ending = entry.name.rpartition(".")
                suffix = f"{dot}{ending.lower()}"
                # What is a link is not looked up where its name is an image's: among millions that takes long.
                if entry.is_dir(follow_symlinks=suffix not in SUFFIXES):
                    listing.folders.append(entry.name)
                elif suffix in SUFFIXES:
                    listing.files.append(entry.name)
                elif suffix in TEXT_SUFFIXES:
                    listing.texts.add(entry.name)
                elif suffix in OTHER_SUFFIXES:
                    listing.others.append(entry.name)
                elif suffix in SHARD_SUFFIXES:
                    listing.shards.append(entry.name)
    except OSError as error:
        raise DataError(f"cannot read the folder {printable(folder)}: {error.strerror}") from None
    for names in (listing.files, listing.folders, listing.others):
        names.sort()
    return listing
