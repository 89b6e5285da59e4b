"""What a command prints: text for people, one JSON document for programs (--json), or no more than errors (--quiet).

Commands print by `say` and `document` alone, so that all of them take both options. Warnings and errors go to standard
error whatever was chosen.
"""

from __future__ import annotations

import contextvars
import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import typer

from fae_core.progress import hidden
from fae_core.redact import redact_values


@dataclass
class _Output:
    """What one command prints.

    Attributes:
        as_json: Print one document at the end instead of text.
        quiet: Print neither results nor progress.
        lines: Text so far.
        content: The document, where the command gives one.
    """

    as_json: bool = False
    quiet: bool = False
    lines: list[str] = field(default_factory=list)
    content: Any = None


_in_force: contextvars.ContextVar[_Output | None] = contextvars.ContextVar("fae_output", default=None)


def say(text: Any) -> None:
    """Print a result, or what to run next, to standard output.

    Args:
        text: Text, or something that rich renders, such as a table.
    """
    output = _in_force.get()
    if output is not None:
        output.lines.append(str(text))
        if output.as_json or output.quiet:
            return
    if isinstance(text, str):
        typer.echo(text)
    else:
        from rich.console import Console

        Console().print(text)


def document(content: Any) -> None:
    """Give the document that --json prints; without one it holds the lines of text.

    Args:
        content: Anything that JSON can hold; paths become texts, numbers that are not finite null.
    """
    output = _in_force.get()
    if output is not None:
        output.content = content


def is_silent() -> bool:
    """Whether nothing but warnings and errors goes to standard error: --quiet, --json, or no command is running."""
    output = _in_force.get()
    return output is None or output.as_json or output.quiet


def choose(*, as_json: bool = False, quiet: bool = False) -> None:
    """Set how the command in force prints.

    Args:
        as_json: Print one document instead of text.
        quiet: Print neither results nor progress.
    """
    output = _in_force.get()
    if output is not None:
        output.as_json, output.quiet = output.as_json or as_json, output.quiet or quiet
        if quiet:
            hidden.set(True)
            logging.getLogger("fae").setLevel(logging.WARNING)


@contextmanager
def command_output() -> Iterator[None]:
    """What is printed by one command. A command within another one prints as that one does, but no document."""
    outer, level = _in_force.get(), logging.getLogger("fae").level
    output = _Output() if outer is None else _Output(quiet=outer.quiet or outer.as_json)
    token, shown = _in_force.set(output), hidden.set(hidden.get())
    try:
        yield
        if output.as_json and outer is None:
            content = {"output": output.lines} if output.content is None else output.content
            typer.echo(json.dumps(redact_values(_plain(content)), indent=2, ensure_ascii=False, allow_nan=False))
    finally:
        _in_force.reset(token)
        hidden.reset(shown)
        logging.getLogger("fae").setLevel(level)


def _plain(value: Any) -> Any:
    """The value as JSON can hold it."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
