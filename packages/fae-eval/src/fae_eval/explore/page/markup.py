"""Pictures, progress and errors as HTML. Everything that comes from a name or a file is escaped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from fae_eval.explore.drawing import Way

Shown = tuple[str, Image.Image | np.ndarray]  # what is below a picture, and the picture

_ROWS, _CELL = 4, 128  # of the table of states: pictures, and pixels of each

STYLE = """
.fae-status {min-height: 2.2em; padding: 4px 0}
.fae-status progress {width: min(60%, 24em); vertical-align: middle; accent-color: var(--color-accent)}
.fae-note {color: var(--body-text-color-subdued)}
.fae-error {border-left: 4px solid #d33; background: rgba(221, 51, 51, 0.12); padding: 8px 12px; border-radius: 4px}
.fae-figures {--least: 80px; display: grid; gap: 10px; max-width: calc(var(--most) * 230px)}
.fae-figures figure, .fae-states td {margin: 0}
.fae-figures img, .fae-states img {display: block; border-radius: 3px}
.fae-figures img {width: 100%}
.fae-figures figcaption, .fae-states th {font-size: 0.85em; color: var(--body-text-color-subdued); font-weight: normal}
.fae-figures figcaption {padding-top: 2px; overflow-wrap: anywhere}
.fae-small {image-rendering: pixelated}
.fae-states {overflow-x: auto}
.fae-states :is(table, th, td, tr), .fae-values :is(td, tr), .fae-values {border: none !important; margin: 0}
.fae-states table {border-collapse: separate !important; border-spacing: 3px; width: auto}
.fae-states td {padding: 0 !important}
.fae-states img {width: clamp(64px, 7vw, 96px) !important; max-width: none !important}
.fae-states th {text-align: left; white-space: nowrap; padding: 0 4px 0 0 !important}
.fae-values {margin-top: 8px !important}
.fae-values td {padding: 2px 16px 2px 0 !important}
.fae-values td + td {text-align: right; font-variant-numeric: tabular-nums}
.fae-picture img {cursor: crosshair; width: 100% !important; max-height: 20rem; object-fit: contain}
@media (max-width: 640px) {
  .gradio-container {padding: 4px !important}
  .gradio-container main.contain, .gradio-container > .main {padding: 8px 4px !important}
  .tab-container button {padding: 0 8px !important}
  .fae-figures {--least: 130px; gap: 6px}
}
"""


def bar(way: Way) -> str:
    """Progress."""
    return f'<progress max="1" value="{way.done:.3f}"></progress> <span>{html.escape(way.name)}</span>'


def note(text: str) -> str:
    """A sentence."""
    return f'<span class="fae-note">{html.escape(text)}</span>'


def fault(text: str) -> str:
    """An error."""
    return f'<div class="fae-error" role="alert">{html.escape(text)}</div>'


def figures(shown: Sequence[Shown], columns: int | None = None) -> str:
    """Pictures with what is below each.

    Args:
        shown: The pictures.
        columns: In a row, on every screen; None lets as many be side by side as the screen has room for, at most 4.
    """
    most = columns or min(4, len(shown))
    filled = "repeat(auto-fill, minmax(max(var(--least), min(22%, 230px)), 1fr))"
    layout = f"repeat({columns}, minmax(0, 1fr))" if columns else filled
    cells = "".join(
        f"<figure>{_image(image, text)}<figcaption>{html.escape(text)}</figcaption></figure>" for text, image in shown
    )
    return f'<div class="fae-figures" style="--most:{most}; grid-template-columns:{layout}">{cells}</div>'


def states(kept: Sequence[tuple[str, list[np.ndarray]]], names: Sequence[str]) -> str:
    """A table: a row for each of the first pictures, a column for each state.

    Args:
        kept: (name, pictures) of each state.
        names: Of the pictures.
    """
    head = "".join(f"<th>{html.escape(name)}</th>" for name, _ in kept)
    rows = "".join(
        f"<tr><th>{html.escape(names[i][:24])}</th>"
        + "".join(f"<td>{_image(_reduced(pictures[i]), f'{names[i]}, {name}')}</td>" for name, pictures in kept)
        + "</tr>"
        for i in range(min(_ROWS, len(names)))
    )
    return f'<div class="fae-states"><table><tr><th></th>{head}</tr>{rows}</table></div>'


def values(numbers: dict[str, float]) -> str:
    """A table of names and numbers."""
    rows = "".join(f"<tr><td>{html.escape(name)}</td><td>{value:.4g}</td></tr>" for name, value in numbers.items())
    return f'<table class="fae-values">{rows}</table>'


def _image(image: Image.Image | np.ndarray, text: str) -> str:
    """A picture in the page itself, so that nothing of it lies on the server's disk."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    picture.save(file, "PNG")
    small = ' class="fae-small"' if max(picture.size) <= _CELL else ""  # squares instead of blur
    content = base64.b64encode(file.getvalue()).decode()
    return f'<img{small} alt="{html.escape(text)}" src="data:image/png;base64,{content}">'


def _reduced(picture: np.ndarray) -> Image.Image:
    """A picture of at most `_CELL` pixels a side."""
    image = Image.fromarray(picture)
    image.thumbnail((_CELL, _CELL), Image.Resampling.LANCZOS)
    return image
