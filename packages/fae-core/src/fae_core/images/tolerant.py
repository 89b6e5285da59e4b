"""What every trainer does about images that cannot be read.

Such an image is named, counted and replaced by the next one when it is read: no image is tried before training begins.
What this process replaced is kept until `take_replaced`, for the run's record. A survey (`fae check`) finds unreadable
images beforehand; those are left out from the start.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fae_core.errors import DataError
from fae_core.images.source import ImageSource
from fae_core.images.survey import open_surveyed
from fae_core.images.tell import log_on_first_process

if TYPE_CHECKING:
    from PIL.Image import Image

    from fae_core.files.digests import Digests

_NAMED = 5  # unreadable images that are named; the rest are counted
_NEIGHBOURS = 16  # images that are tried in place of one
_replaced: dict[int, str] = {}  # place in its source -> why it could not be read


def readable_source(
    data: str | Path | ImageSource, split: str | None = None, survey: str | Path | None = None
) -> ImageSource:
    """The images of `open_images(data, split)`; one that cannot be read is replaced when it is read.

    Args:
        data: as `open_images` takes it.
        split: as `open_images` takes it.
        survey: a report of `fae check` on the same images; those that it found broken are left out.

    Raises:
        DataError: as `open_images`.
        InvalidFile: the survey is absent, damaged or of other images.
    """
    return TolerantImages(open_surveyed(data, split, survey), log_on_first_process)


def take_replaced() -> dict[int, str]:
    """Images that this process could not read since the last call: place in their source -> reason."""
    found = dict(_replaced)
    for place in found:
        del _replaced[place]
    return found


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

    _of_process = ("_lock",)

    def __init__(self, source: ImageSource, log: Callable[[str], Any], limit: float = 0.05) -> None:
        self.source, self.log, self.limit = source, log, limit
        self.classes, self.labels, self.blocks = source.classes, source.labels, source.blocks
        self.captions, self.identity, self.origin = source.captions, source.identity, source.origin
        self._read, self._bad = 0, set[int]()
        self._begin_in_process()

    def _begin_in_process(self) -> None:
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Image:
        first = range(len(self))[index]
        for place in range(first, first + _NEIGHBOURS):
            place %= len(self.source)
            if place in self._bad:  # not tried again: a disk that recovers must not change which image is read
                continue
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

    def encoded(self, index: int) -> bytes | None:
        return self.source.encoded(index)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def content(self, digests: Digests, indices: Sequence[int] | None = None) -> Iterator[str]:
        return self.source.content(digests, indices)

    def _count(self, place: int, error: DataError) -> None:
        """Record an image that cannot be read. Raises DataError where there are too many."""
        with self._lock:
            new = place not in self._bad
            self._bad.add(place)
            bad = len(self._bad)
            _replaced.setdefault(place, " ".join(str(error).split()))
        if new and bad <= _NAMED:
            more = "; further ones are counted only" if bad == _NAMED else ""
            self.log(f"{error}; the next one takes its place{more}")
        if bad >= 100 and bad > self.limit * (self._read + bad):
            raise DataError(f"{bad} of {self._read + bad} images could not be read; the last: {error}")
