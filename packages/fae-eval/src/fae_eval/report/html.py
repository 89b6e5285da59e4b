"""Pieces of HTML, from the templates in this folder: tables, code, pictures inlined as data.

The content may come from anyone: templates escape it and take secrets out, and a picture is shown only where it is
inside the folder of the record that names it.
"""

from __future__ import annotations

import base64
import functools
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup
from PIL import Image

from fae_core.errors import DataError
from fae_core.images import decode_image
from fae_eval.figures.markup import templates
from fae_eval.results import format_cell

_NUMERAL = re.compile(r"[-+]?[\d.,]+%?")
_WIDEST = 1800  # pixels
_HIGHEST = 9 * _WIDEST  # WebP has at most 16,383
_SMALL = 400  # pixels; below, a picture is shown with its pixels as squares
_HEAVIEST = 900_000  # bytes of a picture that is kept as it is
_MOST_BYTES = 2**28  # of a picture that is read at all
_MOST_COLUMNS = 64  # of a strip
_KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}


@functools.cache
def _templates() -> Environment:
    return templates(Path(__file__).with_name("templates"))


def page(**content: Any) -> str:
    """A whole page; see page.html."""
    return _templates().get_template("page.html").render(**content)


def part(name: str, *content: Any) -> Markup:
    """A piece of a page.

    Args:
        name: of the macro in parts.html.
        *content: what it takes.
    """
    macro = getattr(_templates().get_template("parts.html").module, name)
    return Markup(str(macro(*content)).strip())


def join(parts: Sequence[Markup | str]) -> Markup:
    """Pieces one after the other; what is no Markup is escaped."""
    return Markup("").join(parts)


def table(columns: list[Any], rows: list[list[Any]], *, classes: list[str] | None = None) -> Markup:
    """A table that scrolls sideways on narrow screens; numbers are aligned to the right.

    Args:
        columns: names of the columns.
        rows: one cell per column.
        classes: CSS class of each row, "" for none.
    """
    cells = [[{"shown": format_cell(cell), "number": _is_number(cell)} for cell in row] for row in rows]
    return part("table", columns, cells, classes or [""] * len(rows))


def picture(folder: Path, name: str | Path, caption: str = "", columns: Any = None) -> Markup:
    """An inlined picture with its caption; a warning where it cannot be read, or is outside of the folder.

    A record may come from anyone, and a report is sent to others: no path in it may fetch a file from elsewhere.

    Args:
        folder: of the record.
        name: path of the picture, relative to the folder.
        caption: below the picture.
        columns: [left, right] of each column of a strip; they are shown one by one, so that they wrap on narrow
            screens. Anything else shows the picture whole.
    """
    path = folder / name
    try:
        named_inside = not Path(name).is_absolute() and ".." not in Path(name).parts
        inside = named_inside and path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a name with a zero byte, one that is too long, a loop of links
        inside = False
    if not inside:
        outside = f"it is outside of {folder.name or folder}"
        return part("paragraph", "warning", f"The picture {name} is not shown: {outside}.")
    images = _images(path, columns)
    if not images:
        return part("paragraph", "warning", f"The picture {path.name} cannot be read.")
    return part("picture", images, caption, caption or path.stem)


def _images(path: Path, columns: Any) -> list[dict[str, Any]]:
    """A picture, or the columns of a strip, as data: addresses with their sizes; [] where it cannot be read.

    Pictures of many bytes or other formats become WebP, too large ones are made smaller; SVG charts stay as they are.
    """
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return []
        raw = path.read_bytes()
        if path.suffix == ".svg":
            return _svg(raw)
        image = decode_image(raw, path.name)  # which limits what a small file may unpack to
        if _are_edges(columns, image.width):
            slices = [image.crop((left, 0, right, image.height)) for left, right in columns]
            return [_image(column, *_webp(column)) for column in slices]
        kind = next((kind for start, kind in _KINDS.items() if raw.startswith(start)), None)
        if kind is None or image.width > _WIDEST or image.height > _HIGHEST or len(raw) > _HEAVIEST:
            raw, kind = _webp(image)
    except (OSError, ValueError, DataError):
        return []
    return [_image(image, raw, kind)]


def _are_edges(columns: Any, width: int) -> bool:
    """Whether a record's columns are what `picture` takes, within a picture of that width."""
    if not isinstance(columns, list) or not 1 < len(columns) <= _MOST_COLUMNS:
        return False
    pairs = [pair for pair in columns if isinstance(pair, list) and [type(edge) for edge in pair] == [int, int]]
    return len(pairs) == len(columns) and all(0 <= left < right <= width for left, right in pairs)


def _webp(image: Image.Image) -> tuple[bytes, str]:
    """A picture as WebP; a large one is made smaller, in place."""
    image.thumbnail((_WIDEST, _HIGHEST))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=88, method=4, lossless=image.width < _SMALL)
    return buffer.getvalue(), "webp"


def _image(image: Image.Image, raw: bytes, kind: str) -> dict[str, Any]:
    return _data(raw, kind, image.width, image.height, image.width < _SMALL)


def _data(raw: bytes, kind: str, width: int, height: int, crisp: bool) -> dict[str, Any]:
    source = f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"
    # Only base64, which the removal of secrets must not change.
    return {"source": Markup(source), "width": width, "height": height, "crisp": crisp}


def _svg(raw: bytes) -> list[dict[str, Any]]:
    """A chart with its own width and height. Inside <img> a browser runs no scripts and fetches nothing for it."""
    sides = re.match(rb'<svg [^>]*\bwidth="(\d{1,4})" height="(\d{1,4})"', raw)
    if sides is None or len(raw) > _HEAVIEST:
        return []
    return [_data(raw, "svg+xml", int(sides[1]), int(sides[2]), False)]


def _is_number(cell: Any) -> bool:
    number = isinstance(cell, (int, float)) and not isinstance(cell, bool)
    return cell is None or number or _NUMERAL.fullmatch(str(cell)) is not None
