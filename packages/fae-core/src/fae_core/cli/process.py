"""How a `fae` process begins, before torch is loaded: what it follows, how idle threads wait, how it keeps memory.

The user's own settings in the environment come first.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings

from fae_core.commands.children import follow_parent

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc takes no more
_KEPT = 2**31 - 1  # free bytes at the top of a heap before any go back to the system; an int


def begin_process() -> None:
    """Make the settings of a process that runs commands."""
    follow_parent()
    tame_threads()
    keep_freed_memory()
    expect_large_images()


def tame_threads() -> None:
    """Let idle OpenMP threads spin for some 20 microseconds, then sleep.

    Measured on two cores with the demo's feature decoder: 0.071 s a step so, 0.126 s when they sleep immediately
    (PASSIVE), 0.77 s with libgomp's default, which spins so long that torch's other threads get no core. libgomp reads
    the setting when torch is loaded.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "20000"


def expect_large_images() -> None:
    """Leave out Pillow's warning of images above 89 million pixels: `images.decode.check_size` has a limit of its own.

    Filters of warnings are the whole process's, so that this is said here and not where images are decoded.
    """
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit", RuntimeWarning, append=True)


def keep_freed_memory() -> bool:
    """Let glibc keep the memory that tensors free, up to 32 MiB each, for the next ones.

    By default it returns large blocks to the system immediately, and in every step of a training loop the same pages
    are zeroed again: a tenth of the CPU time of a small convolutional autoencoder on a virtual machine
    (docs/reliability.md).

    Returns:
        Whether the setting was made.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent outside glibc
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
