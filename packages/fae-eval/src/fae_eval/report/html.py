"""Small pieces of HTML: escaped text, tables, pictures inlined as data.

The content may come from anyone: text is escaped and without secrets, and a picture is shown only where it is inside
the folder of the record that names it.
"""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path
from typing import Any

from fae_core.errors import DataError
from fae_core.images import decode_image
from fae_core.redact import redact
from fae_eval.results import format_cell

_NUMERAL = re.compile(r"[-+]?[\d.,]+%?")
_WIDEST = 1800  # pixels
_HIGHEST = 9 * _WIDEST  # WebP has at most 16,383
_HEAVIEST = 900_000  # bytes of a picture that is kept as it is
_MOST_BYTES = 2**28  # of a picture that is read at all
_KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}


def text(value: Any) -> str:
    """A value as text, escaped for HTML and without secrets."""
    return html.escape(redact(str(value)))


def section(anchor: str, title: str, body: str, lead: str = "") -> str:
    """A titled section; "" where there is no body.

    Args:
        anchor: its id, for links.
        title: its heading.
        body: HTML.
        lead: a sentence below the heading.
    """
    if not body:
        return ""
    intro = f'<p class="lead">{text(lead)}</p>' if lead else ""
    return f'<section id="{anchor}"><h2>{text(title)}</h2>{intro}{body}</section>'


def table(columns: list[Any], rows: list[list[Any]], *, classes: list[str] | None = None) -> str:
    """A table that scrolls sideways on narrow screens; numbers are aligned to the right.

    Args:
        columns: names of the columns.
        rows: one cell per column.
        classes: CSS class of each row, "" for none.
    """
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(f"<td{_number_class(cell)}>{text(format_cell(cell))}</td>" for cell in row)
        style = f' class="{classes[number]}"' if classes and classes[number] else ""
        lines.append(f"<tr{style}>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def details(summary: str, body: str) -> str:
    """A part of the page that stays closed until it is clicked."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def code(content: str) -> str:
    """Text with its line breaks, in a fixed-width font."""
    return f"<pre><code>{text(content)}</code></pre>"


def picture(folder: Path, name: str | Path, caption: str = "") -> str:
    """An inlined picture with its caption; a warning where it cannot be read, or is outside of the folder.

    A record may come from anyone, and a report is sent to others: no path in it may fetch a file from elsewhere.

    Args:
        folder: of the record.
        name: path of the picture, relative to the folder.
        caption: below the picture.
    """
    path = folder / name
    try:
        named_inside = not Path(name).is_absolute() and ".." not in Path(name).parts
        inside = named_inside and path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a name with a zero byte, one that is too long, a loop of links
        inside = False
    if not inside:
        outside = f"it is outside of {text(folder.name or folder)}"
        return f'<p class="warning">The picture {text(name)} is not shown: {outside}.</p>'
    source, size = data_uri(path)
    if source is None:
        return f'<p class="warning">The picture {text(path.name)} cannot be read.</p>'
    note = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    crisp = ' class="crisp"' if size[0] < 400 and path.suffix != ".svg" else ""
    return (
        f'<figure class="picture"><img{crisp} src="{source}" width="{size[0]}" height="{size[1]}" '
        f'alt="{text(caption or path.stem)}" loading="lazy">{note}</figure>'
    )


def data_uri(path: Path) -> tuple[str | None, tuple[int, int]]:
    """A picture as a data: address, and its (width, height); (None, (0, 0)) where it cannot be read.

    Pictures of many bytes or other formats become WebP, too large ones are made smaller; SVG charts stay as they are.
    """
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return None, (0, 0)
        raw = path.read_bytes()
        if path.suffix == ".svg":
            return _svg_uri(raw)
        image = decode_image(raw, path.name)  # which limits what a small file may unpack to
        kind = next((kind for start, kind in _KINDS.items() if raw.startswith(start)), None)
        if kind is None or image.width > _WIDEST or image.height > _HIGHEST or len(raw) > _HEAVIEST:
            image.thumbnail((_WIDEST, _HIGHEST))
            buffer = io.BytesIO()
            image.save(buffer, "WEBP", quality=88, method=4)
            raw, kind = buffer.getvalue(), "webp"
    except (OSError, ValueError, DataError):
        return None, (0, 0)
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}", image.size


def _svg_uri(raw: bytes) -> tuple[str | None, tuple[int, int]]:
    """A chart with its own width and height. Inside <img> a browser runs no scripts and fetches nothing for it."""
    sides = re.match(rb'<svg [^>]*\bwidth="(\d{1,4})" height="(\d{1,4})"', raw)
    if sides is None or len(raw) > _HEAVIEST:
        return None, (0, 0)
    return f"data:image/svg+xml;base64,{base64.b64encode(raw).decode()}", (int(sides[1]), int(sides[2]))


def _number_class(cell: Any) -> str:
    number = isinstance(cell, (int, float)) and not isinstance(cell, bool)
    return ' class="n"' if cell is None or number or _NUMERAL.fullmatch(str(cell)) else ""
