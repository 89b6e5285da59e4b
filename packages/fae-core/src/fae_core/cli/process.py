"""How a `fae` process waits and keeps memory, settled before torch is loaded. The user's own settings in the environment win."""

from __future__ import annotations

import ctypes
import os
import sys

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc takes no more
_KEPT = 2**31 - 1  # free bytes at the top of a heap before any go back to the system; an int


def tame_threads() -> None:
    """Let idle OpenMP threads spin for some 20 microseconds, then sleep.

    Measured on two cores with the demo's feature decoder: 0.071 s a step so, 0.126 s when they sleep at once (PASSIVE), 0.77 s
    with libgomp's default, which spins long enough to starve torch's other threads. libgomp reads this when torch is loaded.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "20000"


def keep_freed_memory() -> bool:
    """Let glibc keep what tensors free, up to 32 MiB each, for the next ones; returns whether it was told so.

    By default it gives large blocks back to the system at once, and every step of a training loop then has the same pages
    zeroed again: a tenth of the CPU time of a small convolutional autoencoder on a virtual machine (docs/reliability.md).
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; others have none
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
