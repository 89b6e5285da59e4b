"""What a source of images is: images by index, with labels, classes and captions where it has them."""

from __future__ import annotations

import bisect
import collections
import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fae_core.errors import DataError
from fae_core.files.digests import FileDigests
from fae_core.images.captions import Picked

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageSource(ABC):
    """Images by index, with their labels and captions where they have any.

    labels: one class index per image, or None. classes: class names by index, or None where they are not known.
    captions: one text per image, or None; read when it is asked for, so that opening a source stays quick.
    blocks: how many images lie together in each file or row group, in order, where reading them out of order is dear;
    None where it is not.
    """

    labels: list[int] | None = None
    captions: Sequence[str] | None = None
    classes: list[str] | None = None
    blocks: list[int] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Image:
        """The image as RGB uint8, in its own size. Raises DataError, naming it, where it cannot be read. Thread-safe."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call the image in messages: its path, or its place in a file."""

    def content(self, digests: FileDigests, indices: Sequence[int] | None = None) -> Iterator[str]:
        """What `content_identity` is made of beside labels and classes: the images' files and captions, in order.

        indices: of some images alone. Here every image is decoded; sources that know their files say so more cheaply.
        """
        for index in range(len(self)) if indices is None else indices:
            yield pixels_digest(self, index)
            if self.captions is not None:
                yield self.captions[index]

    def place(self, index: int) -> int:
        """Which image `read(index)` gave, for its label: this one, unless it cannot be read and another takes its place."""
        return index

    def select(self, indices: Sequence[int]) -> ImageSource:
        """Some of the images, in that order."""
        return _Selection(self, indices)


class _Selection(ImageSource):
    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        self._source, self._indices = source, [range(len(source))[i] for i in indices]
        self.classes = source.classes
        self.labels = None if source.labels is None else [source.labels[i] for i in self._indices]
        self.captions = None if source.captions is None else Picked(source.captions, self._indices)
        self.blocks = None if source.blocks is None else _blocks_of(self._indices, source.blocks)

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> Image:
        return self._source.read(self._indices[index])

    def name(self, index: int) -> str:
        return self._source.name(self._indices[index])

    def content(self, digests: FileDigests, indices: Sequence[int] | None = None) -> Iterator[str]:
        chosen = self._indices if indices is None else [self._indices[i] for i in indices]
        return self._source.content(digests, chosen)


def _blocks_of(indices: Sequence[int], blocks: Sequence[int]) -> list[int] | None:
    """How a selection in ascending order lies in the blocks; None for one in another order."""
    if any(a >= b for a, b in itertools.pairwise(indices)):
        return None
    bounds = list(itertools.accumulate(blocks))
    counts = collections.Counter(bisect.bisect_right(bounds, index) for index in indices)
    return [counts[block] for block in sorted(counts)]


def pixels_digest(source: ImageSource, index: int) -> str:
    """Of one image as it is decoded, for sources that do not say which file holds it."""
    try:
        image = source.read(index)
    except DataError:
        return "unreadable"
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
