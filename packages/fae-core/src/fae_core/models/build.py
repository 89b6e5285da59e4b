"""Making a model of a configuration, with initial weights that a seed fixes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fae_core.errors import InvalidFile, first_line


def built(where: str, build: Callable[[], Any]) -> Any:
    """The model that `build()` makes of a configuration; InvalidFile where torch cannot make one of these sizes."""
    try:
        return build()
    except torch.OutOfMemoryError:  # a GPU's, which has a line of its own
        raise
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
        if isinstance(error, TypeError) and "Overflow" not in str(error):  # torch's own complaint of a huge number
            raise
        raise InvalidFile(f"{where}: no model of these sizes can be made: {first_line(error)[:200]}") from error


def seeded(seed: int, build: Callable[[], Any]) -> Any:
    """What `built` makes with initial weights that are fixed by the seed, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return built("model settings", build)
