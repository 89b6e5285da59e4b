"""Processes that a command starts: each in a session of its own, so that a signal to the command reaches them once, from here.

SIGTERM and SIGINT are passed on to all of them, and nothing is left behind: on Linux they are also told when the command is
killed outright.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

PARENT = "FAE_PARENT"  # in a child's environment: the process id of who started it
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Children:
    """The processes that run. `signal` is the first signal that asked to stop, 0 before; `again` counts those after it."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen] = []
        self.signal = self.again = 0

    def start(
        self, command: Sequence[str], environment: dict[str, str], output: IO[bytes] | None = None
    ) -> subprocess.Popen:
        """Start `fae` with these arguments; both streams go to `output`, if there is one."""
        child = subprocess.Popen(
            [sys.executable, "-m", "fae_core.cli.main", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            env={**os.environ, **environment, PARENT: str(os.getpid())},
            start_new_session=True,
        )
        self.running.append(child)
        if self.signal:  # it came while the child was being started
            child.send_signal(self.signal)
        return child

    def send(self, number: int) -> None:
        for child in self.running:
            child.send_signal(number)  # of one that has ended, nothing happens

    def _pass_on(self, number: int, _: object) -> None:
        number = signal.SIGTERM if number == signal.SIGHUP else number
        if self.signal:
            self.again += 1
        self.signal = self.signal or number
        self.send(number)


@contextmanager
def children() -> Iterator[Children]:
    """Children whose signals come from here. Whatever still runs at the end of the block is killed."""
    group, before = Children(), {}
    try:
        for number in _FORWARDED:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, group._pass_on)
    except ValueError:  # not the main thread: the host program owns the signals
        pass
    try:
        yield group
    finally:
        group.send(signal.SIGKILL)
        for child in group.running:
            child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def follow_parent() -> None:
    """In a child: end, as by SIGTERM, when the process that started it is gone."""
    parent = os.environ.pop(PARENT, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGTERM)
