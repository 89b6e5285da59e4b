"""Reading ahead: what comes next is read in threads while what came before is used."""

from __future__ import annotations

import queue
import threading
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
) -> Iterator[tuple[Item, Read]]:
    """Read items in threads before they are asked for, and give them in order.

    Args:
        read: reads one item; what it raises is raised when the item is asked for.
        items: what to read.
        threads: how many threads read; 0 reads each item when it is asked for.
        ahead: how many items, at least one, are read or wait to be used beyond the one that is asked for.
        wait: waits for an item and gives what was read.

    Returns:
        Pairs of an item and what was read.
    """
    if threads == 0:
        yield from ((item, read(item)) for item in items)
        return
    asked: queue.SimpleQueue[tuple[Item, Future[Read]] | None] = queue.SimpleQueue()
    # Daemons, because a thread that hangs in a read must not keep the process from ending.
    for number in range(threads):
        threading.Thread(target=_work, args=(read, asked), name=f"loader-{number}", daemon=True).start()
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
        for _ in range(threads):
            asked.put(None)


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
