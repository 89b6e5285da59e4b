"""What every trainer does about images that cannot be read.

They are left out, counted and named before the first step. In sources that are too large for that, such an image is
named, counted and replaced by the next one when it is read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fae_core.errors import DataError
from fae_core.files.digests import FileDigests
from fae_core.images.batch import readable_images
from fae_core.images.open import open_images
from fae_core.images.source import ImageSource
from fae_core.images.tell import log_on_first_process

if TYPE_CHECKING:
    from PIL.Image import Image

_NAMED = 5  # unreadable images that are named; the rest are counted
_NEIGHBOURS = 16  # images that are tried in place of one


def readable_source(data: str | Path | ImageSource, split: str | None = None) -> ImageSource:
    """The images of `open_images(data, split)` that can be decoded.

    The others are counted and named in the log: now, or in large sets of shards when they are read.

    Args:
        data: as `open_images` takes it.
        split: as `open_images` takes it.

    Raises:
        DataError: none can be read, or as `open_images`.
    """
    source = open_images(data, split)
    if source.blocks is not None:
        return TolerantImages(source, log_on_first_process)
    readable = readable_images(source, log_on_first_process, threads=2)
    return source if len(readable) == len(source) else source.select(readable)


class TolerantImages(ImageSource):
    """A source in which the next image that can be read replaces one that cannot.

    It is always the same one, so that a resumed run reads what an uninterrupted one read. Labels are those of the
    source: what was read at an index has the label of its `place`. `read` raises DataError where too many images so far
    could not be read (at least 100 of them), or none of 16 in a row could.

    Args:
        source: the images.
        log: called with a line for each of the first few that cannot be read.
        limit: the largest share of images that may be replaced.
    """

    def __init__(self, source: ImageSource, log: Callable[[str], Any], limit: float = 0.05) -> None:
        self.source, self.log, self.limit = source, log, limit
        self.classes, self.labels, self.blocks = source.classes, source.labels, source.blocks
        self._read, self._bad = 0, set[int]()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Image:
        first = range(len(self))[index]
        for place in range(first, first + _NEIGHBOURS):
            place %= len(self.source)
            try:
                image = self.source.read(place)
            except DataError as error:
                self._count(place, error)
            else:
                self._read += 1
                return image
        raise DataError(f"none of {_NEIGHBOURS} images from {self.name(index)} on can be read")

    def place(self, index: int) -> int:
        for step in range(_NEIGHBOURS):
            if (place := (index + step) % len(self.source)) not in self._bad:
                return place
        return index

    def select(self, indices: Sequence[int]) -> ImageSource:
        return TolerantImages(self.source.select(indices), self.log, self.limit)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def content(self, digests: FileDigests, indices: Sequence[int] | None = None) -> Iterator[str]:
        return self.source.content(digests, indices)

    def _count(self, place: int, error: DataError) -> None:
        """Record an image that cannot be read. Raises DataError where there are too many."""
        with self._lock:
            new = place not in self._bad
            self._bad.add(place)
            bad = len(self._bad)
        if new and bad <= _NAMED:
            more = "; further ones are counted only" if bad == _NAMED else ""
            self.log(f"{error}; the next one takes its place{more}")
        if bad >= 100 and bad > self.limit * (self._read + bad):
            raise DataError(f"{bad} of {self._read + bad} images could not be read; the last: {error}")
