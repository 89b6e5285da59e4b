"""Who may use the models now: visitors take turns, step by step, and each can end what he has begun.

A model runs for one visitor at a time, so that memory and cores are those of one. A visitor who samples passes the turn
on at every step: nobody waits longer than a step of each of the others.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Told = TypeVar("Told")
Result = TypeVar("Result")


class Stopped(Exception):
    """Work that its visitor has ended."""


class Turns:
    """A lock that is given in the order in which it was asked for; `with turns:` holds it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    def __enter__(self) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self._waiting[0] is ticket)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._waiting.popleft()
            self._changed.notify_all()

    def pass_on(self) -> None:
        """Let everybody who waits have a turn; for who holds the lock."""
        with self._changed:
            alone = len(self._waiting) == 1
        if not alone:
            self.__exit__()
            self.__enter__()


@dataclass(frozen=True)
class Done(Generic[Result]):
    """The last thing that `Work.run` gives: what the job returned."""

    result: Result


class Work:
    """Jobs of several visitors, each in a thread of its own, one step at a time."""

    def __init__(self) -> None:
        self.turns = Turns()
        self._running: dict[Hashable, threading.Event] = {}

    def run(self, key: Hashable, job: Callable[[Callable[[Told], None]], Result]) -> Iterator[Told | Done[Result]]:
        """What a job tells, as it tells it, and last `Done` with its result.

        Args:
            key: Of the job, for `stop`; a visitor's earlier job of the same key is ended.
            job: Calls its argument at every step with what is to be given. It holds the turn, but for these calls.

        Raises:
            Stopped: The job was ended by `stop`.
            Exception: Whatever the job raises.
        """
        self.stop(key)
        ended, told = threading.Event(), queue.SimpleQueue[tuple[str, Any]]()
        self._running[key] = ended

        def tell(item: Told) -> None:
            told.put(("told", item))
            self.turns.pass_on()
            if ended.is_set():
                raise Stopped

        def work() -> None:
            try:
                with self.turns:
                    if ended.is_set():
                        raise Stopped
                    result = job(tell)
                told.put(("done", result))
            except BaseException as error:  # it is raised where the visitor waits
                told.put(("failed", error))

        threading.Thread(target=work, daemon=True).start()
        try:
            while True:
                kind, item = told.get()
                if kind == "failed":
                    raise item
                if kind == "done":
                    yield Done(item)
                    return
                yield item
        finally:  # a visitor who has left ends his job, too
            ended.set()
            if self._running.get(key) is ended:
                del self._running[key]

    def now(self, job: Callable[[], Result]) -> Result:
        """The result of a short job, when its turn has come."""
        with self.turns:
            return job()

    def stop(self, key: Hashable) -> None:
        """End the job of a key at its next step; nothing where there is none."""
        ended = self._running.get(key)
        if ended is not None:
            ended.set()

    def leave(self, visitor: Hashable) -> None:
        """End all jobs whose key begins with a visitor."""
        for key in list(self._running):
            if isinstance(key, tuple) and key[:1] == (visitor,):
                self.stop(key)
