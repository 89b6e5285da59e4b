"""Images as one picture, for a notebook."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from fae_core.errors import DataError
from fae_core.images.accept import image_batch
from fae_core.images.decode import upright_rgb
from fae_core.images.grid import draw_grid

if TYPE_CHECKING:
    from fae_core.images.source import ImageSource

_SIDE = 256  # pixels to which pictures of different sizes are fitted
_FIRST, _SMALL = 8, 96  # images that stand for a source, and their pixels


def show(images: Any, labels: Sequence[Any] | None = None, *, columns: int | None = None) -> Image.Image:
    """Images side by side; a notebook displays the result, and `.save(path)` writes it.

    Args:
        images: tensors (B, 3, H, W) or (3, H, W), floats in [0, 1] or uint8; arrays with their channels last; Pillow
            images; lists of these. Pillow images of different sizes are fitted into squares.
        labels: one below each image.
        columns: images in a row; None takes about as many as rows.

    Raises:
        FAEError: images of another kind, shape or range, or another number of labels.
    """
    if getattr(images, "ndim", None) == 3 or isinstance(images, Image.Image):
        images = [images]
    pictures = isinstance(images, (list, tuple)) and all(isinstance(image, Image.Image) for image in images)
    if pictures and len({image.size for image in images}) > 1:
        images = [ImageOps.pad(upright_rgb(image), (_SIDE, _SIDE), color="white") for image in images]
    batch = image_batch(images, None)
    if not len(batch):
        raise DataError("there are no images to show")
    texts = None if labels is None else [_text(label) for label in labels]
    return draw_grid(batch.detach().float().cpu(), columns or math.ceil(math.sqrt(len(batch))), texts)


def thumbnails(source: ImageSource) -> list[bytes]:
    """The first images of a source as one PNG file, without those that cannot be read; empty where there are none."""
    small = []
    for index in range(min(len(source), _FIRST)):
        with contextlib.suppress(DataError):
            small.append(ImageOps.pad(source.read(index), (_SMALL, _SMALL), color="white"))
    if not small:
        return []
    file = io.BytesIO()
    show(small, columns=_FIRST).save(file, "PNG")
    return [file.getvalue()]


def _text(label: Any) -> str:
    """A label as text, of a tensor or array its number."""
    return str(label.item() if isinstance(label, np.generic) or getattr(label, "ndim", None) == 0 else label)
