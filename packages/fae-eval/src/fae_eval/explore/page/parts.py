"""What the tabs share: handlers whose errors are shown, progress that is not told more often than it is seen."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from fae_core.errors import FAEError
from fae_eval.explore.drawing import Drawn
from fae_eval.explore.page.markup import bar, fault, note, states
from fae_eval.explore.turns import Done, Replaced, Stopped, Work

_log = logging.getLogger("fae.explore")
_SECONDS = 0.2  # between two reports of progress

Updates = Iterator[dict[Any, Any]]


def status_line(elem_id: str) -> gr.HTML:
    """The place of a tab for progress, notes and errors."""
    return gr.HTML(elem_id=elem_id, elem_classes="fae-status", padding=False)


def place(elem_id: str) -> gr.HTML:
    """A place for pictures."""
    return gr.HTML(elem_id=elem_id, padding=False)


def guarded(status: gr.HTML) -> Callable[[Callable[..., Updates]], Callable[..., Updates]]:
    """A handler whose errors are shown in a status line, and which leaves everything else as it is.

    Args:
        status: The line.
    """

    def decorate(handler: Callable[..., Updates]) -> Callable[..., Updates]:
        @functools.wraps(handler)
        def run(*arguments: Any) -> Updates:
            try:
                yield from handler(*arguments)
            except Replaced:
                return  # the line is that of what was asked for since
            except Stopped:
                yield {status: note("stopped")}
            except FAEError as error:
                yield {status: fault(str(error))}
            except Exception as error:
                if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
                    yield {status: fault("there is not enough memory; ask for fewer pictures")}
                    return
                _log.exception("a request failed")
                yield {status: fault(f"the program failed ({type(error).__name__}); its terminal says where")}

        return run

    return decorate


def drawn_updates(
    told: Iterator[Any],
    status: gr.HTML,
    finished: Callable[[Drawn], dict[Any, Any]],
    way: gr.HTML | None = None,
    names: list[str] | None = None,
) -> Updates:
    """Updates of a page while something is drawn, and those of the result.

    Args:
        told: Of `Work.run`: `Way`, and last `Done` with a `Drawn`.
        status: Shows progress.
        finished: Updates for the result.
        way: Shows the states; None for none.
        names: Of the pictures, for the states.
    """
    shown, last = 0, 0.0
    for item in told:
        if isinstance(item, Done):
            yield finished(item.result)
            return
        new = len(item.states) > shown
        if not new and time.monotonic() - last < _SECONDS:
            continue
        last, update = time.monotonic(), {status: bar(item)}
        if way is not None and new:
            update[way] = states(item.states, names or [])
        shown = len(item.states)
        yield update


def visitor(request: gr.Request) -> str:
    """The session of who asks."""
    return request.session_hash or ""


def draws(asked: Sequence[Any], handler: Callable[..., Updates], inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Let clicks, or Enter in a field, begin something that takes a while; a second one ends the first.

    Args:
        asked: The events.
        handler: What they begin.
        inputs: Fields that it takes.
        outputs: Elements that it changes.
    """
    gr.on(asked, handler, inputs, outputs, show_progress="hidden", trigger_mode="multiple")


def stops(button: gr.Button, work: Work, kind: str) -> None:
    """Let a button end what its visitor has begun of one kind."""

    def stop(request: gr.Request) -> None:
        work.stop((visitor(request), kind))

    button.click(stop, queue=False, show_progress="hidden")


def number(value: Any, what: str) -> int:
    """A whole number of a field. Raises FAEError for an empty field and for another number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise FAEError(f"the {what} must be a whole number")
    return int(value)
