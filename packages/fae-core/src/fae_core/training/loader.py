"""Batches loaded ahead of time in threads: in order, whatever the threads do, and never waited for without end."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from fae_core.errors import DataError

Loaded = TypeVar("Loaded")
log = logging.getLogger("fae")


def ahead(
    load: Callable[[int], Loaded], steps: range, threads: int, stall_limit: float = 600.0
) -> Iterator[tuple[int, Loaded]]:
    """(step, load(step)) in order, computed by `threads` threads a little ahead of time, or here where there are none.

    What `load` raises is raised here, at its step. A batch that is not there after a tenth of `stall_limit` seconds is
    reported in the log, and after all of them DataError is raised (with threads only).
    """
    if threads == 0:
        yield from ((step, load(step)) for step in steps)
        return
    asked: queue.SimpleQueue[tuple[int, Future] | None] = queue.SimpleQueue()
    # Daemons, because a thread that hangs in a read must not keep the process from ending.
    for number in range(threads):
        threading.Thread(target=_work, args=(load, asked), name=f"loader-{number}", daemon=True).start()
    waiting: deque[Future] = deque()
    upcoming = iter(steps)
    try:
        for step in steps:
            while len(waiting) <= threads and (following := next(upcoming, None)) is not None:
                waiting.append(Future())
                asked.put((following, waiting[-1]))
            yield step, _wait(waiting.popleft(), step, stall_limit)
    finally:
        for future in waiting:
            future.cancel()
        for _ in range(threads):
            asked.put(None)


def _work(load: Callable[[int], Loaded], asked: queue.SimpleQueue[tuple[int, Future] | None]) -> None:
    while (request := asked.get()) is not None:
        step, future = request
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(load(step))
        except BaseException as error:
            future.set_exception(error)


def _wait(future: Future[Loaded], step: int, stall_limit: float) -> Loaded:
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
        f"no data for step {step + 1} in {stall_limit:.0f} s; once the data source answers again, continue with --resume"
    )
