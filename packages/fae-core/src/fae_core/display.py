"""How objects look in a notebook: small tables and pictures as HTML, in which everything that is shown is escaped."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Iterable, Mapping
from typing import Any

from fae_core.redact import redact

_LONGEST = 200  # letters of a cell, or of a repr
_SHORT = 40  # letters of a field in a repr


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


def short(value: Any, longest: int = 80) -> str:
    """The end of a long name, for a repr."""
    text = str(value)
    return text if len(text) <= longest else "..." + text[3 - longest :]


def _cell(value: Any) -> str:
    """A value as text that no browser takes for markup, without secrets and line breaks, cut."""
    text = " ".join(redact(value_text(value)).split())
    text = text.encode(errors="replace").decode()
    return html.escape(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")


def fields_repr(self: Any) -> str:
    """The `__repr__` of a dataclass or named tuple whose tensors would fill pages: of tensors and arrays the shapes."""
    shown = [f"{name}={text}" for name, text in _fields(self).items()]
    text = f"{type(self).__name__}({', '.join(shown)}"
    return (text if len(text) < _LONGEST - 4 else text[: _LONGEST - 5] + "...") + ")"


def fields_html(self: Any) -> str:
    """The `_repr_html_` that goes with `fields_repr`."""
    return html_table(type(self).__name__, _fields(self))


def _fields(record: Any) -> dict[str, str]:
    names = getattr(record, "_fields", None) or [field.name for field in dataclasses.fields(record)]
    return {name: _field(getattr(record, name)) for name in names}


def _field(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{'x'.join(map(str, shape)) or 'scalar'} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple) and value and hasattr(value[0], "shape"):
        return f"{len(value)} of {_field(value[0])}"
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHORT else text[: _SHORT - 3] + "..."
