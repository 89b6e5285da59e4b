"""What reading pictures may cost: how many pixels are decoded at once, over all threads of a process, and what may be unpacked."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fae_core.errors import DataError

UNPACKED_IN_MEMORY = 2**30  # bytes of compressed pictures that are unpacked into memory as they are
_MAX_RATIO = 100


def check_unpacked(unpacked: int, packed: int, where: str) -> None:
    """Raise DataError for what takes more than 1 GiB and a hundred times its size when it is unpacked: no pictures do."""
    if unpacked > max(UNPACKED_IN_MEMORY, _MAX_RATIO * packed):
        raise DataError(
            f"{where} unpacks to {unpacked} bytes from {packed}, which no pictures do; nothing is read from it"
        )


class PixelBudget:
    """`pixels` for all threads together. A thread takes what a picture has and gives it back at the end of its `share`.

    A thread that waits holds nothing, so that threads never wait for each other in a circle.
    """

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self._reset()

    @contextmanager
    def share(self) -> Iterator[None]:
        """A block that works on one picture at a time. Inside another one of the same thread it is part of that."""
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
        """Wait until so many pixels (at most all) are free, and hold them instead of what this thread's share held."""
        self._give_back()
        pixels = min(pixels, self.pixels)
        with self._first, self._changed:  # one thread at a time waits for room, so that large pictures get their turn
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        self._held.pixels = pixels

    def _give_back(self) -> None:
        if self._held.pixels:
            with self._changed:
                self._free += self._held.pixels
                self._changed.notify()
            self._held.pixels = 0

    def _reset(self) -> None:
        self._free = self.pixels
        self._first, self._changed, self._held = threading.Lock(), threading.Condition(), threading.local()


# 2**27 pixels at 16 bytes each: decoding takes at most 2 GiB, whatever the number of threads.
DECODING = PixelBudget(2**27)
os.register_at_fork(after_in_child=DECODING._reset)  # the threads that held pixels exist in the parent only
