"""Progress of long work: a bar on a terminal, an occasional line elsewhere."""

from __future__ import annotations

import contextvars
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LINE_SECONDS = 10.0  # how often a log file gets a line

# Whether progress is not wanted in this context (--quiet).
hidden: contextvars.ContextVar[bool] = contextvars.ContextVar("fae_progress_hidden", default=False)


class Bar:
    """A display of progress; this one shows nothing."""

    def advance(self, count: int = 1) -> None:
        """Count further units as done."""

    def note(self, text: str) -> None:
        """Show a short text beside the count."""


@contextmanager
def progress(total: int, description: str, done: int = 0, enabled: bool = True) -> Iterator[Bar]:
    """A Bar that writes to standard error.

    Args:
        total: Units of work.
        description: What the work is.
        done: Units that are done already.
        enabled: Show it; False on processes that are not the first.
    """
    if not enabled or hidden.get():
        yield Bar()
    elif sys.stderr.isatty():
        with _terminal_bar(total, description, done) as bar:
            yield bar
    else:
        bar = _LineBar(total, description, done)
        yield bar
        bar.finish()


@contextmanager
def _terminal_bar(total: int, description: str, done: int) -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as display:
        task = display.add_task(description, total=total, completed=done, note="")

        class TerminalBar(Bar):
            def advance(self, count: int = 1) -> None:
                display.advance(task, count)

            def note(self, text: str) -> None:
                display.update(task, note=text)

        yield TerminalBar()


class _LineBar(Bar):
    def __init__(self, total: int, description: str, done: int) -> None:
        self.total, self.description, self.done = total, description, done
        self.text = ""
        self.started = self.last = time.monotonic()

    def advance(self, count: int = 1) -> None:
        self.done += count
        if time.monotonic() - self.last > _LINE_SECONDS and self.done < self.total:
            self._line()

    def note(self, text: str) -> None:
        self.text = text

    def finish(self) -> None:
        self._line()

    def _line(self) -> None:
        self.last = time.monotonic()
        note = f", {self.text}" if self.text else ""
        print(  # noqa: T201 - the output of a command
            f"{self.description}: {self.done}/{self.total}, {self.last - self.started:.0f} s{note}",
            file=sys.stderr,
            flush=True,
        )
