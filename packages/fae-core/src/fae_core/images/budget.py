"""Limits of memory: how many pixels all threads of a process decode at the same time, and what may be unpacked."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fae_core.errors import DataError

UNPACKED_IN_MEMORY = 2**30  # bytes of compressed images that are unpacked into memory
_MAX_RATIO = 100


def check_unpacked(unpacked: int, packed: int, where: str) -> None:
    """Refuse what unpacks to more than 1 GiB and to more than a hundred times its size: no images do.

    Args:
        unpacked: bytes after unpacking.
        packed: bytes before.
        where: what errors call it.

    Raises:
        DataError: it is larger than that.
    """
    if unpacked > max(UNPACKED_IN_MEMORY, _MAX_RATIO * packed):
        raise DataError(
            f"{where} unpacks to {unpacked} bytes from {packed}, which no pictures do; nothing is read from it"
        )


class PixelBudget:
    """A number of pixels that all threads share. A thread takes as many as an image has and returns them after it.

    A thread that waits holds nothing, so that threads never wait for each other in a circle.

    Args:
        pixels: how many there are.
    """

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self._reset()

    @contextmanager
    def share(self) -> Iterator[None]:
        """A block that decodes one image at a time and returns its pixels at the end. Nested blocks count as one."""
        if getattr(self._held, "pixels", None) is not None:
            yield
            return
        self._held.pixels = 0
        try:
            yield
        finally:
            self._give_back()
            self._held.pixels = None

    def take(self, pixels: int) -> None:
        """Wait until pixels are free, and hold them in place of those that this thread held. Called within `share`.

        Args:
            pixels: how many; more than there are count as all.
        """
        self._give_back()
        pixels = min(pixels, self.pixels)
        with self._first, self._changed:  # one thread at a time waits, so that large images get their turn
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        self._held.pixels = pixels

    def _give_back(self) -> None:
        """Return what this thread holds."""
        if self._held.pixels:
            with self._changed:
                self._free += self._held.pixels
                self._changed.notify()
            self._held.pixels = 0

    def _reset(self) -> None:
        """Make all pixels free."""
        self._free = self.pixels
        self._first, self._changed, self._held = threading.Lock(), threading.Condition(), threading.local()


# 2**27 pixels at 16 bytes each: decoding takes at most 2 GiB, whatever the number of threads.
DECODING = PixelBudget(2**27)
os.register_at_fork(after_in_child=DECODING._reset)  # the threads that held pixels exist in the parent only
