"""Small pieces of HTML: escaped text, tables, pictures inlined as data."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from fae_eval.results import format_cell

_NUMERAL = re.compile(r"[-+]?[\d.,]+%?")
_WIDEST = 1800  # pixels
_HEAVIEST = 900_000  # bytes of a PNG that is kept as it is


def text(value: Any) -> str:
    """Escaped for HTML."""
    return html.escape(str(value))


def section(anchor: str, title: str, body: str, lead: str = "") -> str:
    """A titled section; "" where there is no body."""
    if not body:
        return ""
    intro = f'<p class="lead">{text(lead)}</p>' if lead else ""
    return f'<section id="{anchor}"><h2>{text(title)}</h2>{intro}{body}</section>'


def table(columns: list[Any], rows: list[list[Any]], *, classes: list[str] | None = None) -> str:
    """A table that scrolls sideways on narrow screens; numbers are aligned to the right. classes: one per row."""
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(f"<td{_number_class(cell)}>{text(format_cell(cell))}</td>" for cell in row)
        style = f' class="{classes[number]}"' if classes and classes[number] else ""
        lines.append(f"<tr{style}>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def details(summary: str, body: str) -> str:
    """A part that is closed until it is asked for."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def code(content: str) -> str:
    return f"<pre><code>{text(content)}</code></pre>"


def picture(path: Path, caption: str = "") -> str:
    """An inlined picture with its caption; a line that says so where it cannot be read."""
    source, size = data_uri(path)
    if source is None:
        return f'<p class="warning">The picture {text(path.name)} cannot be read.</p>'
    note = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    crisp = ' class="crisp"' if size[0] < 400 and path.suffix != ".svg" else ""
    return (
        f'<figure class="picture"><img{crisp} src="{source}" width="{size[0]}" height="{size[1]}" alt="{text(caption or path.stem)}" '
        f'loading="lazy">{note}</figure>'
    )


def data_uri(path: Path) -> tuple[str | None, tuple[int, int]]:
    """A picture as a data: address and its size. Heavy ones become WebP, too wide ones smaller; SVG charts stay as they are."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".svg":
            return _svg_uri(raw)
        with Image.open(io.BytesIO(raw), formats=("PNG", "JPEG", "WEBP")) as image:
            image.load()
            kind, size = (image.format or "png").lower(), image.size
            if size[0] > _WIDEST or len(raw) > _HEAVIEST:
                smaller = image.convert("RGBA" if image.has_transparency_data else "RGB")
                smaller.thumbnail((_WIDEST, 10 * _WIDEST))
                buffer = io.BytesIO()
                smaller.save(buffer, "WEBP", quality=88, method=4)
                raw, kind, size = buffer.getvalue(), "webp", smaller.size
    except (OSError, UnidentifiedImageError, ValueError):
        return None, (0, 0)
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}", size


def _svg_uri(raw: bytes) -> tuple[str | None, tuple[int, int]]:
    """A chart by its own width and height. Inside <img> a browser runs no script of it and fetches nothing for it."""
    sides = re.match(rb'<svg [^>]*\bwidth="(\d{1,4})" height="(\d{1,4})"', raw)
    if sides is None or len(raw) > _HEAVIEST:
        return None, (0, 0)
    return f"data:image/svg+xml;base64,{base64.b64encode(raw).decode()}", (int(sides[1]), int(sides[2]))


def _number_class(cell: Any) -> str:
    number = isinstance(cell, (int, float)) and not isinstance(cell, bool)
    return ' class="n"' if cell is None or number or _NUMERAL.fullmatch(str(cell)) else ""
