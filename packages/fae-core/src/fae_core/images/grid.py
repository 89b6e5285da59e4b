"""Image files of tensors: single images, and grids with text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.files import disk_errors, write_atomic
from fae_core.images.check import require_range
from fae_core.images.decode import MAX_PIXELS
from fae_core.images.transform import to_uint8

_GAP = 2  # pixels between tiles
_PAD = 3  # pixels around text
_LONGEST = 200  # letters of a label


def save_image(image: Tensor, path: str | Path) -> Path:
    """Write an image as a PNG, whole or not at all.

    Args:
        image: (3, H, W) in [0, 1].
        path: the file; its folder is made.

    Returns:
        The path.

    Raises:
        FAEError: the image has another shape or range, or the disk cannot be written.
    """
    return _write(to_pillow(image), path)


def save_grid(
    images: Tensor,
    path: str | Path,
    columns: int,
    labels: Sequence[str] | None = None,
    *,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    scale: int = 1,
) -> Path:
    """Write images row by row as one PNG on white, whole or not at all.

    Args:
        images: (B, 3, H, W) in [0, 1].
        path: the file; its folder is made.
        columns: images in a row.
        labels: one below each image.
        row_labels: one left of each row.
        column_labels: one above each column.
        scale: how many pixels wide and high a pixel is drawn; at least 1. Text keeps its size.

    Returns:
        The path.

    Raises:
        FAEError: images are of another shape or range, the number of labels does not fit, or the grid is too large.
    """
    drawn = draw_grid(images, columns, labels, row_labels=row_labels, column_labels=column_labels, scale=scale)
    return _write(drawn, path)


def draw_grid(
    images: Tensor,
    columns: int,
    labels: Sequence[str] | None = None,
    *,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    scale: int = 1,
) -> Image.Image:
    """The image that `save_grid` writes. Arguments and errors are those of `save_grid`.

    Args:
        images: (B, 3, H, W) in [0, 1].
        columns: Images in a row.
        labels: One below each image.
        row_labels: One left of each row.
        column_labels: One above each column.
        scale: How many pixels wide and high a pixel is drawn; at least 1.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not len(images) or min(columns, scale) < 1:
        raise FAEError(
            f"a grid needs images (B, 3, H, W), a column and a scale, got {tuple(images.shape)}, {columns} and {scale}"
        )
    if not column_labels:
        columns = min(columns, len(images))
    require_range(images)
    rows = -(-len(images) // columns)
    for kind, given, wanted in (
        ("labels", labels, len(images)),
        ("row labels", row_labels, rows),
        ("column labels", column_labels, columns),
    ):
        if given is not None and len(given) != wanted:
            raise FAEError(
                f"a grid of {len(images)} images in {columns} columns needs {wanted} {kind}, got {len(given)}"
            )
    height, width = (scale * side for side in images.shape[-2:])
    font = ImageFont.load_default()
    labels, row_labels, column_labels = (
        None if texts is None else [_drawable(font, text) for text in texts]
        for texts in (labels, row_labels, column_labels)
    )
    line = _extent(font, ["Ag"])[1] + 2 * _PAD
    left = _extent(font, row_labels)[0] + 2 * _PAD if row_labels else 0
    top = line if column_labels else 0
    cell_width, cell_height = width + _GAP, height + (line if labels else 0) + _GAP
    size = left + columns * cell_width - _GAP, top + rows * cell_height - _GAP
    if size[0] * size[1] > MAX_PIXELS:
        raise FAEError(
            f"a grid of {len(images)} images in {columns} columns has {size[0]}x{size[1]} pixels; draw fewer or smaller"
        )
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for index, image in enumerate(images):
        x, y = left + index % columns * cell_width, top + index // columns * cell_height
        canvas.paste(to_pillow(image).resize((width, height), Image.Resampling.NEAREST), (x, y))
        if labels:
            draw.text((x, y + height + _PAD), _fitted(font, labels[index], width - _PAD), "black", font)
    for row, text in enumerate(row_labels or ()):
        draw.text((_PAD, top + row * cell_height + height // 2 - line // 2), text, "black", font)
    for column, text in enumerate(column_labels or ()):
        draw.text((left + column * cell_width, _PAD), _fitted(font, text, width - _PAD), "black", font)
    return canvas


def column_edges(total: int, columns: int, width: int) -> list[list[int]]:
    """[left, right] of each column of images in a grid, which may have labels left of them.

    Args:
        total: width of the grid in pixels.
        columns: images in a row.
        width: of an image.
    """
    rights = [total - (columns - 1 - column) * (width + _GAP) for column in range(columns)]
    return [[right - width, right] for right in rights]


def to_pillow(image: Tensor) -> Image.Image:
    """A tensor (3, H, W) in [0, 1] as an RGB image. Raises FAEError for another shape or range.

    Args:
        image: Floats.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise FAEError(f"an image has shape (3, H, W), got {tuple(image.shape)}")
    require_range(image, what="an image")
    return Image.fromarray(to_uint8(image).permute(1, 2, 0).contiguous().to(torch.device("cpu")).numpy())


def _extent(font: ImageFont.ImageFont | ImageFont.FreeTypeFont, texts: Sequence[str]) -> tuple[int, int]:
    """(width, height) in pixels of the largest text."""
    boxes = [font.getbbox(text) for text in texts]
    return int(max(box[2] for box in boxes)), int(max(box[3] for box in boxes))


def _drawable(font: ImageFont.ImageFont | ImageFont.FreeTypeFont, text: str) -> str:
    """A text on one line, cut, in letters that the font has: Pillow's bitmap font has Latin-1 only."""
    encoding = "utf-8" if isinstance(font, ImageFont.FreeTypeFont) else "latin-1"
    return " ".join(text[:_LONGEST].split()).encode(encoding, "replace").decode(encoding)


def _fitted(font: ImageFont.ImageFont | ImageFont.FreeTypeFont, text: str, width: int) -> str:
    """A text on one line, cut so that it stays within `width` pixels."""
    text = " ".join(text[: max(width, 1)].encode(errors="replace").decode().split())
    while text and _extent(font, [text])[0] > width:
        text = text[:-1]
    return text


def _write(picture: Image.Image, path: str | Path) -> Path:
    """Write a PNG, whole or not at all."""
    path = Path(path)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, buffer.getvalue())
    return path
