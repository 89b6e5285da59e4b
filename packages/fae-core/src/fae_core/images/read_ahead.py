"""Reading ahead: what comes next is read in threads while what came before is used."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(
    read: Callable[[Item], Read],
    items: Iterable[Item],
    *,
    threads: int,
    ahead: int,
    wait: Callable[[Future[Read], Item], Read] = lambda future, _: future.result(),
    patience: float = 60.0,
) -> Iterator[tuple[Item, Read]]:
    """Read items in threads before they are asked for, and give them in order.

    Args:
        read: reads one item; what it raises is raised when the item is asked for.
        items: what to read.
        threads: how many threads read; 0 reads each item when it is asked for.
        ahead: how many items, at least one, are read or wait to be used beyond the one that is asked for.
        wait: waits for an item and gives what was read.
        patience: seconds, at most, that the end waits for reads that have begun, also after an error.

    Returns:
        Pairs of an item and what was read.
    """
    if threads == 0:
        yield from ((item, read(item)) for item in items)
        return
    asked: queue.SimpleQueue[tuple[Item, Future[Read]] | None] = queue.SimpleQueue()
    # Daemons, because a thread that hangs in a read must not keep the process from ending.
    readers = [
        threading.Thread(target=_work, args=(read, asked), name=f"reader-{number}", daemon=True)
        for number in range(threads)
    ]
    for reader in readers:
        reader.start()
    waiting: deque[tuple[Item, Future[Read]]] = deque()
    try:
        for item in items:
            waiting.append((item, Future()))
            asked.put(waiting[-1])
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, wait(future, first)
        while waiting:
            first, future = waiting.popleft()
            yield first, wait(future, first)
    finally:
        for _, future in waiting:
            future.cancel()
        for _ in readers:
            asked.put(None)
        # A thread that still is in torch when the interpreter ends would abort the process.
        until = time.monotonic() + patience
        for reader in readers:
            reader.join(max(0.0, until - time.monotonic()))


def _work(read: Callable[[Item], Read], asked: queue.SimpleQueue[tuple[Item, Future[Read]] | None]) -> None:
    """Read what is asked for, until None is."""
    while (request := asked.get()) is not None:
        item, future = request
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(read(item))
        except BaseException as error:
            future.set_exception(error)
