"""Laying out pictures with Pillow: cells in rows and columns, titles, colour maps.

Backgrounds are transparent and text is mid-grey, so that a picture suits a light and a dark page.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fae_core.files import disk_errors, write_atomic
from fae_core.images import to_pillow

CELL = 168  # pixels of a cell's longer side
GAP = 8
TEXT = (125, 132, 148, 255)
MARK = (255, 64, 96, 255)
# From low to high: dark violet, blue, teal, green, yellow; even steps of lightness.
_STOPS = np.array([[34, 14, 66], [62, 62, 140], [38, 116, 142], [43, 164, 129], [132, 206, 84], [250, 231, 60]], float)


def colormap(values: Tensor) -> np.ndarray:
    """Values (h, w) in [0, 1] as colours, uint8 (h, w, 3), from dark violet to yellow."""
    position = values.double().clamp(0, 1).cpu().numpy() * (len(_STOPS) - 1)
    low = np.minimum(position.astype(int), len(_STOPS) - 2)
    part = (position - low)[..., None]
    return np.rint(_STOPS[low] * (1 - part) + _STOPS[low + 1] * part).astype(np.uint8)


def from_tensor(image: Tensor, cell: int = CELL) -> Image.Image:
    """An image (3, H, W) in [0, 1], scaled so that its longer side has `cell` pixels."""
    picture = to_pillow(image)
    return scaled(picture, cell, Image.Resampling.LANCZOS if max(picture.size) > cell else Image.Resampling.BICUBIC)


def from_grid(pixels: np.ndarray, cell: int = CELL) -> Image.Image:
    """A small grid of colours, uint8 (h, w, 3), as a picture of squares; its longer side has `cell` pixels."""
    return scaled(Image.fromarray(pixels), cell, Image.Resampling.NEAREST)


def scaled(picture: Image.Image, cell: int, resampling: Image.Resampling) -> Image.Image:
    """A picture whose longer side has `cell` pixels."""
    factor = cell / max(picture.size)
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), resampling)


def mark_patch(picture: Image.Image, row: int, column: int, grid: tuple[int, int]) -> Image.Image:
    """A picture with one patch of its grid (rows, columns) outlined."""
    marked = picture.convert("RGBA")
    height, width = picture.height / grid[0], picture.width / grid[1]
    box = [round(column * width), round(row * height), round((column + 1) * width) - 1, round((row + 1) * height) - 1]
    draw = ImageDraw.Draw(marked)
    draw.rectangle([box[0] - 3, box[1] - 3, box[2] + 3, box[3] + 3], outline=(255, 255, 255, 255), width=1)
    draw.rectangle([box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2], outline=MARK, width=2)
    return marked


def compose(
    rows: Sequence[Sequence[Image.Image]],
    *,
    column_titles: Sequence[str] | None = None,
    row_titles: Sequence[str] | None = None,
) -> Image.Image:
    """Cells of equal size in rows.

    Args:
        rows: the cells of each row.
        column_titles: above the columns.
        row_titles: left of the rows, turned upwards.
    """
    width = max(cell.width for row in rows for cell in row)
    height = max(cell.height for row in rows for cell in row)
    columns = max(len(row) for row in rows)
    font = _font(13)
    top = 24 if column_titles else 0
    left = 22 if row_titles else 0
    canvas = Image.new(
        "RGBA", (left + columns * (width + GAP) - GAP, top + len(rows) * (height + GAP) - GAP), (0, 0, 0, 0)
    )
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(column_titles or ()):
        centre = left + column * (width + GAP) + width / 2
        draw.text((centre, 18), _fitted(title, font, width), TEXT, font, anchor="ms")
    for number, row in enumerate(rows):
        y = top + number * (height + GAP)
        if row_titles:
            canvas.paste(_upwards(row_titles[number], font, height), (0, y))
        for column, cell in enumerate(row):
            canvas.paste(cell.convert("RGBA"), (left + column * (width + GAP), y))
    return canvas


def save_picture(picture: Image.Image, path: str | Path) -> Path:
    """Write a PNG, whole or not at all, and make its folder; returns the path."""
    path, buffer = Path(path), io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())
    return path


def normalise(values: Tensor, low: float = 0.01, high: float = 0.99) -> Tensor:
    """Values (N, C), each column stretched so that its `low` and `high` quantiles become 0 and 1, and clipped."""
    values = values.double()
    ends = torch.quantile(values, values.new_tensor([low, high]), dim=0)
    return ((values - ends[0]) / (ends[1] - ends[0]).clamp_min(1e-12)).clamp(0, 1)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while len(text) > 1 and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _upwards(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, height: int) -> Image.Image:
    strip = Image.new("RGBA", (height, 20), (0, 0, 0, 0))
    ImageDraw.Draw(strip).text((height / 2, 15), _fitted(text, font, height), TEXT, font, anchor="ms")
    return strip.rotate(90, expand=True)
