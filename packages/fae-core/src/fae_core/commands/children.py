"""Processes that a command starts, and the signals that it passes on to them.

Each is in a session of its own, so that a signal to the command reaches it once, from here: SIGINT as it is, the others
that ask for an end as SIGTERM. None outlives the command: on Linux they also get SIGTERM when the command is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fae_core.commands.signals import asked_to_end

PARENT = "FAE_PARENT"  # in a child's environment: the process id of the command that started it
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PARENT_ENDED = signal.SIGUSR1 if sys.platform.startswith("linux") else None


class Children:
    """The processes that run.

    Attributes:
        running: All that were started.
        signal: The first signal that asked to stop; 0 before one came.
        again: Number of signals after it.
    """

    def __init__(self) -> None:
        self.running: list[subprocess.Popen] = []
        self.signal = self.again = 0

    def start(
        self,
        arguments: Sequence[str],
        environment: dict[str, str],
        module: str = "fae_core.cli.main",
        talk: bool = False,
    ) -> subprocess.Popen:
        """Start `fae`, or another module that begins with `begin_process`.

        Args:
            arguments: The arguments after the module.
            environment: Variables to add to this process's.
            module: The module's full name.
            talk: Connect stdin and stdout to this process; otherwise the child reads nothing and prints where this
                process does.
        """
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talk else None,
            env={**os.environ, **environment, PARENT: str(os.getpid())},
            start_new_session=True,
        )
        self.running.append(child)
        if self.signal:  # came while the child was being started
            child.send_signal(self.signal)
        return child

    def send(self, number: int) -> None:
        """Send a signal to all; processes that have ended are skipped."""
        for child in self.running:
            child.send_signal(number)

    def pass_on(self, number: int) -> None:
        """Send a signal that asks for an end to all, and count it."""
        if self.signal:
            self.again += 1
        self.signal = self.signal or number
        self.send(number)


@contextmanager
def children() -> Iterator[Children]:
    """Children that get this process's signals. Those that still run at the end of the block are killed."""
    group = Children()
    with asked_to_end(group.pass_on):
        try:
            yield group
        finally:
            group.send(signal.SIGKILL)
            for child in group.running:
                child.wait()


def follow_parent() -> None:
    """In a child, on Linux: let this process get SIGTERM, once, when the one that started it ends.

    The kernel may signal the end of several threads of that process. As a second SIGTERM, it would end training without
    its checkpoint.
    """
    parent = os.environ.pop(PARENT, None)
    if parent is None or _PARENT_ENDED is None:
        return

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(_PARENT_ENDED, end)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _PARENT_ENDED)
    if os.getppid() != int(parent):
        os.kill(os.getpid(), _PARENT_ENDED)
