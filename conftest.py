"""For all tests: how many run at once, and what they import is left out of garbage collections."""

from __future__ import annotations

import gc
import os
import sys

import pytest

_MOST_WORKERS = 4
_frozen = 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: some tests wait for processes that they start, and leave a core idle."""
    return min(_MOST_WORKERS, len(os.sched_getaffinity(0)) + 1)


def pytest_runtest_logfinish() -> None:
    """Freeze what was imported: a recipe collects garbage after each step, and half a million objects of torch and
    transformers would make that a sixth of its time."""
    global _frozen
    if len(sys.modules) > _frozen + 100:
        _frozen = len(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_unconfigure() -> None:
    """Let everything be collected again before the process ends: some libraries count their objects then."""
    gc.unfreeze()
