"""Progress of long work: a bar on a terminal, an occasional line elsewhere."""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LINE_SECONDS = 8.0  # after which the next unit of work gives a log file a line: every ten; more often at first
_FIRST_SECONDS = 1.5  # when it gets the first one, whatever is done by then

# Whether progress is not wanted in this context (--quiet).
hidden: contextvars.ContextVar[bool] = contextvars.ContextVar("fae_progress_hidden", default=False)


class Bar:
    """A display of progress; this one shows nothing."""

    def advance(self, count: int = 1) -> None:
        """Count further units as done."""

    def note(self, text: str) -> None:
        """Show a short text beside the count."""


@contextmanager
def progress(total: int, description: str, done: int = 0, enabled: bool = True, brief: bool = False) -> Iterator[Bar]:
    """A Bar that writes to standard error.

    Args:
        total: Units of work.
        description: What the work is.
        done: Units that are done already.
        enabled: Show it; False on processes that are not the first.
        brief: For work that is mostly done at once: nothing is shown of it then, and nothing stays on a terminal.
    """
    if not enabled or hidden.get():
        yield Bar()
    elif sys.stderr.isatty():
        with _terminal_bar(total, description, done, brief) as bar:
            yield bar
    else:
        bar = _LineBar(total, description, done, brief)
        first = threading.Timer(_FIRST_SECONDS, bar.begin)
        first.daemon = True
        first.start()
        try:
            yield bar
        finally:
            first.cancel()
        bar.finish()


@contextmanager
def _terminal_bar(total: int, description: str, done: int, brief: bool) -> Iterator[Bar]:
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
    with Progress(*columns, console=Console(stderr=True), transient=brief) as display:
        task = display.add_task(description, total=total, completed=done, note="")

        class TerminalBar(Bar):
            def advance(self, count: int = 1) -> None:
                display.advance(task, count)

            def note(self, text: str) -> None:
                display.update(task, note=text)

        yield TerminalBar()


class _LineBar(Bar):
    def __init__(self, total: int, description: str, done: int, brief: bool) -> None:
        self.total, self.description, self.done, self.brief = total, description, done, brief
        self.text = ""
        self.started = self.last = time.monotonic()
        self.ended = False

    def begin(self) -> None:
        """Write the first line, unless the work is done already."""
        if self.last == self.started and not self.ended:
            self._line()

    def advance(self, count: int = 1) -> None:
        self.done += count
        self._line_if_due()

    def note(self, text: str) -> None:
        self.text = text
        self._line_if_due()

    def _line_if_due(self) -> None:
        # As long as the work had taken at the last line, but no longer than the limit.
        pause = min(_LINE_SECONDS, max(_FIRST_SECONDS, self.last - self.started))
        if time.monotonic() - self.last > pause and self.done < self.total:
            self._line()

    def finish(self) -> None:
        self.ended = True
        if not self.brief or self.last > self.started:
            self._line()

    def _line(self) -> None:
        self.last = time.monotonic()
        note = f", {self.text}" if self.text else ""
        print(  # noqa: T201 - the output of a command
            f"{self.description}: {self.done}/{self.total}, {self.last - self.started:.0f} s{note}",
            file=sys.stderr,
            flush=True,
        )
