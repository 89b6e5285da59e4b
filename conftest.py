"""For all tests: what they import is left out of garbage collections."""

from __future__ import annotations

import gc
import sys

_frozen = 0


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
