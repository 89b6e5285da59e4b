"""The signals that ask a command to end: SIGTERM (preemption), SIGINT (Ctrl-C), SIGHUP (its terminal was closed)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def asked_to_end(
    act: Callable[[int], object],
    *,
    signals: Iterable[int] = ENDING,
    once: bool = False,
    replaces: Callable[[Any], bool] = lambda handler: True,
) -> Iterator[None]:
    """Call `act` when a signal asks for an end during the block.

    Signals that are ignored stay so: nohup, and shells that start a job in the background, have them ignored. Outside
    the main thread nothing is done, as the host program handles signals then. A terminal that closes may send SIGHUP
    more than once (the system and the shell both do), which is one request: after the first signal it is ignored.

    Args:
        act: Called with SIGINT, or with SIGTERM for the two others: the signal that the exit status tells.
        signals: Those of `ENDING` that it is called for.
        once: Call it for the first signal alone. The handlers from before the block act on the next ones.
        replaces: Whether a signal's handler from before the block is replaced, given that handler.
    """
    before: dict[int, Any] = {}

    def handle(number: int, _: object) -> None:
        if once:
            restore()
        if signal.SIGHUP in before:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        act(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        for number in signals:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None) and replaces(handler):
                before[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        restore()
