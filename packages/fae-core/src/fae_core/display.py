"""How objects look in a notebook: small tables and pictures as HTML, in which everything that is shown is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping
from typing import Any

from fae_core.redact import redact

_LONGEST = 200  # letters of a cell


def html_table(title: str, facts: Mapping[str, Any], *pictures: bytes) -> str:
    """A table of names and values.

    Args:
        title: Above the table.
        facts: Values by name.
        pictures: PNG files, below the table.
    """
    rows = [f"<tr><th style='text-align:left'>{_cell(name)}</th><td>{_cell(facts[name])}</td></tr>" for name in facts]
    return _whole(title, rows, pictures)


def html_grid(title: str, columns: Iterable[Any], rows: Iterable[Iterable[Any]], notes: Iterable[Any] = ()) -> str:
    """A table with a row of headings.

    Args:
        title: Above the table.
        columns: The headings.
        rows: The cells.
        notes: Lines below the table.
    """
    head = "".join(f"<th>{_cell(name)}</th>" for name in columns)
    body = ["<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in rows]
    below = "".join(f"<div>{_cell(note)}</div>" for note in notes)
    return _whole(title, [f"<tr>{head}</tr>" if head else "", *body], ()) + below


def _whole(title: str, rows: list[str], pictures: Iterable[bytes]) -> str:
    images = "".join(
        f"<img style='image-rendering:pixelated' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"
        for png in pictures
    )
    return f"<div><b>{_cell(title)}</b><table>{''.join(rows)}</table>{images}</div>"


def value_text(value: Any) -> str:
    """A value as people read it: whole numbers with commas, others with four digits."""
    if type(value) is int:
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    """A value as text that no browser takes for markup, without secrets and line breaks, cut."""
    text = " ".join(redact(value_text(value)).split())
    text = text.encode(errors="replace").decode()
    return html.escape(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")
