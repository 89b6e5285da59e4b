"""The `fae` program: what it prints, how it ends, and with which status."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from fae_core.cli.process import begin_process
from fae_core.commands.groups import invoke
from fae_core.commands.loading import announced_imports
from fae_core.commands.signals import asked_to_end
from fae_core.errors import FAEError, first_line
from fae_core.redact import RedactedStream

_LONGEST_LINE = 2000  # of an error


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    The status is 0 when done, 1 on failure, 2 for wrong input (one line says what is wrong), 130 if interrupted, 143 if
    terminated or its terminal was closed.

    Args:
        arguments: What follows `fae`; None: those of this process.
    """
    begin_process()
    with announced_imports() if arguments is None else nullcontext():
        status = run(list(sys.argv[1:] if arguments is None else arguments))
    sys.exit(status)


def run(arguments: Sequence[str], execute: Callable[[Sequence[str]], None] | None = None) -> int:
    """Run a command and print how it ended, in one line where a user can help it.

    Args:
        arguments: What follows `fae`.
        execute: What runs it inside this process; None: `commands.groups.invoke`.

    Returns:
        The exit status, as of `main`.
    """
    with _redacted_output():
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
        logging.getLogger("fae").setLevel(logging.INFO)
        # The hub's client would print a bar for every small file.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        try:
            # The program that we run in may handle some of them itself.
            with asked_to_end(_end, replaces=lambda handler: handler == signal.SIG_DFL):
                (execute or invoke)(arguments)
            return 0
        except Terminated:
            print("terminated", file=sys.stderr)  # noqa: T201
            return Terminated.status
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)  # noqa: T201
            return 130
        except Exception as error:
            return _explain(error)


@contextmanager
def _redacted_output() -> Iterator[None]:
    """Remove secrets from everything that is printed within the block: results, logs, warnings, tracebacks."""
    before = sys.stdout, sys.stderr
    ours = sys.stdout, sys.stderr = RedactedStream(sys.stdout), RedactedStream(sys.stderr)
    try:
        yield
    finally:
        if (sys.stdout, sys.stderr) == ours:  # click replaces them after a broken pipe
            sys.stdout, sys.stderr = before


class Terminated(SystemExit):
    """SIGTERM or SIGHUP, where nothing else handles it: incomplete folders are removed and locks released then."""

    status = 128 + signal.SIGTERM

    def __init__(self) -> None:
        super().__init__(self.status)


def _end(number: int) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _explain(error: Exception) -> int:
    """Print an error that a user can correct as one line, any other with its traceback; returns the exit status."""
    if type(error.__cause__).__name__ == "NoArgsIsHelpError":
        error.__cause__.show()  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]  (of click: the help)
        return 2
    if isinstance(error, FAEError):
        line = str(error)
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        line = (
            f"out of memory ({first_line(error)}); lower --batch-size or raise training.accumulation, "
            "or use --set training.precision=bf16"
        )
    elif isinstance(error, OSError) and error.filename is not None and error.strerror:
        line = f"{error.filename}: {error.strerror.lower()}"
    else:
        traceback.print_exception(error)
        return 1
    # A name or a text from a file could hold control characters, which move the cursor or hide a line.
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(line.split()))
    print(f"error: {shown[:_LONGEST_LINE]}", file=sys.stderr)  # noqa: T201
    return getattr(error, "exit_code", 2)


if __name__ == "__main__":
    main()
