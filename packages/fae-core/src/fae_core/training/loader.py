"""Batches loaded ahead of time in threads: in order, whatever the threads do, and never waited for without end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from fae_core.errors import DataError
from fae_core.images.read_ahead import read_ahead

Loaded = TypeVar("Loaded")
log = logging.getLogger("fae")


def ahead(
    load: Callable[[int], Loaded], steps: range, threads: int, stall_limit: float = 600.0
) -> Iterator[tuple[int, Loaded]]:
    """Load steps ahead of time, and give them in order. What `load` raises is raised here, at its step.

    Args:
        load: loads a step.
        steps: which steps.
        threads: how many threads load; 0 loads each step when it is due.
        stall_limit: seconds to wait for a step (with threads only); each tenth of them is reported in the log.

    Returns:
        Pairs of a step and what `load` gave for it.

    Raises:
        DataError: a step was not loaded within the limit.
    """
    return read_ahead(load, steps, threads=threads, ahead=threads, wait=partial(_wait, stall_limit=stall_limit))


def _wait(future: Future[Loaded], step: int, stall_limit: float) -> Loaded:
    """A step's data, or DataError after `stall_limit` seconds."""
    patience = stall_limit / 10
    for tenth in range(1, 11):
        try:
            return future.result(timeout=patience)
        except TimeoutError:
            if future.done():  # the load itself timed out
                raise
            log.warning(
                "step %d has waited %.0f s for its data; is the data source stalled?", step + 1, tenth * patience
            )
    raise DataError(
        f"no data for step {step + 1} in {stall_limit:.0f} s; once the data source answers again, continue with "
        "--resume"
    )
