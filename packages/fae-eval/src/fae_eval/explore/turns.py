"""Who may use the models now: visitors take turns, step by step, and each can end what he has begun.

A model runs for one visitor at a time, so that memory and cores are those of one. A visitor who samples passes the turn
on at every step: nobody waits longer than a step of each of the others.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Told = TypeVar("Told")
Result = TypeVar("Result")


class Stopped(Exception):
    """Work that its visitor has ended."""


class Replaced(Stopped):
    """Work whose visitor has asked for something else in its place."""


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


@dataclass
class _Job:
    """A job that runs: whether it has to end, and by which exception."""

    ended: threading.Event = field(default_factory=threading.Event)
    why: type[Stopped] = Stopped

    def check(self) -> None:
        """Raise what ends it, where it has to end."""
        if self.ended.is_set():
            raise self.why

    def end(self, why: type[Stopped]) -> None:
        """End it at its next step."""
        if not self.ended.is_set():
            self.why = why
            self.ended.set()


class Work:
    """Jobs of several visitors, each in a thread of its own, one step at a time."""

    def __init__(self) -> None:
        self.turns = Turns()
        self._running: dict[tuple[Hashable, ...], _Job] = {}

    def run(self, key: Hashable, call: Callable[[Callable[[Told], None]], Result]) -> Iterator[Told | Done[Result]]:
        """What a job tells, as it tells it, and last `Done` with its result.

        Args:
            key: Of the job, for `stop`; of several parts the visitor first. An earlier job of the same key is ended.
            call: The job: it calls its argument at every step with what is to be given. It holds the turn, but for
                these calls.

        Raises:
            Stopped: The job was ended by `stop`.
            Replaced: It was ended by another one of its key.
            Exception: Whatever the job raises.
        """
        key = _parts(key)
        earlier = self._running.get(key)
        if earlier is not None:
            earlier.end(Replaced)
        job, told = _Job(), queue.SimpleQueue[tuple[str, Any]]()
        self._running[key] = job

        def tell(item: Told) -> None:
            told.put(("told", item))
            job.check()
            self.turns.pass_on()
            job.check()

        def work() -> None:
            try:
                with self.turns:
                    job.check()
                    result = call(tell)
                told.put(("done", result))
            except BaseException as error:  # it is raised where the visitor waits
                told.put(("failed", error))

        threading.Thread(target=work, daemon=True).start()
        try:
            while True:
                kind, item = told.get()
                if kind == "failed":
                    raise item
                job.check()  # what was told before it had to end is of no interest any more
                if kind == "done":
                    yield Done(item)
                    return
                yield item
        finally:  # a visitor who has left ends his job, too
            job.end(Stopped)
            if self._running.get(key) is job:
                del self._running[key]

    def now(self, job: Callable[[], Result]) -> Result:
        """The result of a short job, when its turn has come.

        Args:
            job: Holds the turn until it returns.
        """
        with self.turns:
            return job()

    def stop(self, key: Hashable) -> None:
        """End the job of a key at its next step; nothing where there is none.

        Args:
            key: As it was given to `run`, or the beginning of several.
        """
        begin = _parts(key)
        for running, job in list(self._running.items()):
            if running[: len(begin)] == begin:
                job.end(Stopped)

    def leave(self, visitor: Hashable) -> None:
        """End all jobs of a visitor.

        Args:
            visitor: With whom the keys of his jobs begin.
        """
        self.stop((visitor,))


def _parts(key: Hashable) -> tuple[Hashable, ...]:
    """A key as a tuple."""
    return key if isinstance(key, tuple) else (key,)
