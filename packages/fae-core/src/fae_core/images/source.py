"""What a source of images is: images by index, with labels, classes and captions where it has them."""

from __future__ import annotations

import bisect
import collections
import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fae_core.display import html_table, value_text
from fae_core.errors import DataError
from fae_core.images.captions import LazyTexts
from fae_core.places import places_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from fae_core.files.digests import Digests
    from fae_core.images.identity import Identity


class ImageSource(ABC):
    """Images by index, with their labels and captions where they have any.

    Workers may be spawned: a source is pickled as it was opened, and opens anew what a process holds of its files.

    Attributes:
        labels: one class index for each image, or None.
        captions: one text for each image, or None; read when it is asked for, so that opening a source stays fast. It
            may hold several captions: see `fae_core.images.captions.split_captions`.
        classes: class names by index, or None where they are not known.
        blocks: how many images each file or row group holds, in order, where reading out of order is slow; else None.
        origin: how they were named where they were opened (`open_images`); None for sources made otherwise.
        identity: what tells the images apart from others (`images.identity`), where a survey has it; else None.
    """

    labels: list[int] | None = None
    captions: Sequence[str] | None = None
    classes: list[str] | None = None
    blocks: list[int] | None = None
    origin: str | None = None
    identity: Identity | None = None

    _of_process: tuple[str, ...] = ()  # attributes that `_begin_in_process` sets

    def _begin_in_process(self) -> None:  # noqa: B027 (most sources have nothing of the kind)
        """Set what each process has of its own: locks, caches, maps and open files."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self._of_process}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin_in_process()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Image:
        """The image as RGB uint8, in its own size. Safe in threads.

        Args:
            index: Of the image, from 0.

        Raises:
            DataError: the image, which is named, cannot be read.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """The image's name in messages: its path, or its place in a file.

        Args:
            index: Of the image, from 0.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__.strip('_')}({', '.join(f'{value} {name}' for name, value in _facts(self))})"

    def _repr_html_(self) -> str:
        from fae_core.images.gallery import thumbnails

        return html_table(type(self).__name__.strip("_"), dict(_facts(self)), *thumbnails(self))

    def content(self, digests: Digests, indices: Sequence[int] | None = None) -> Iterator[str]:
        """What `images.identity` hashes beside labels and classes: the images' files and captions, in order.

        This method decodes every image; sources that know their files override it with a faster one.

        Args:
            digests: gives what identifies a file, its hash or facts about it.
            indices: which images; None for all.
        """
        for index in range(len(self)) if indices is None else indices:
            yield pixels_digest(self, index)
            if self.captions is not None:
                yield self.captions[index]

    def encoded(self, index: int) -> bytes | None:
        """The bytes of the image's file as they are stored; None where a source has no such.

        Args:
            index: Of the image, from 0.

        Raises:
            DataError: they cannot be read.
        """
        return None

    def place(self, index: int) -> int:
        """The index of the image that `read(index)` gives: another where that one cannot be read and was replaced.

        Args:
            index: Of the image that was asked for, from 0.
        """
        return index

    def select(self, indices: Sequence[int]) -> ImageSource:
        """Some of the images, in that order.

        Args:
            indices: Which images, from 0; one may come twice.

        Raises:
            DataError: One is no index of an image.
        """
        return _Selection(self, indices)


def _facts(source: ImageSource) -> Iterator[tuple[str, str]]:
    """What a source has, by name, without reading labels or captions."""
    yield "images", value_text(len(source))
    if source.classes:
        yield "classes", value_text(len(source.classes))
    for name, found in (("labels", source.labels), ("captions", source.captions)):
        yield name, "no" if found is None else "with"


class _Selection(ImageSource):
    """Some images of a source."""

    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        self._source = source
        whose = source.origin or "the source"
        self._indices = indices if isinstance(indices, range) else places_of(indices, len(source), whose).tolist()
        self.classes, self.origin = source.classes, source.origin
        self.labels = None if source.labels is None else [source.labels[i] for i in self._indices]
        self.captions = None if source.captions is None else LazyTexts(source.captions.__getitem__, self._indices)
        self.blocks = None if source.blocks is None else _blocks_of(self._indices, source.blocks)

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> Image:
        return self._source.read(self._indices[index])

    def encoded(self, index: int) -> bytes | None:
        return self._source.encoded(self._indices[index])

    def name(self, index: int) -> str:
        return self._source.name(self._indices[index])

    def content(self, digests: Digests, indices: Sequence[int] | None = None) -> Iterator[str]:
        chosen = self._indices if indices is None else [self._indices[i] for i in indices]
        return self._source.content(digests, chosen)


def _blocks_of(indices: Sequence[int], blocks: Sequence[int]) -> list[int] | None:
    """How many images of a selection each block holds; None for a selection that is not in ascending order."""
    if any(a >= b for a, b in itertools.pairwise(indices)):
        return None
    bounds = list(itertools.accumulate(blocks))
    counts = collections.Counter(bisect.bisect_right(bounds, index) for index in indices)
    return [counts[block] for block in sorted(counts)]


def pixels_digest(source: ImageSource, index: int) -> str:
    """A hash of an image's size and pixels, or "unreadable", for sources that do not say which file holds it."""
    try:
        image = source.read(index)
    except DataError:
        return "unreadable"
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
