"""The grid of a folder of samples: which images it shows, its columns and its text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fae_core.errors import FAEError
from fae_core.images import save_grid
from fae_core.images.decode import MAX_PIXELS

_COLUMNS = 8
_MOST_CLASSES = 20  # that get a column each
_MOST_ROWS = 16
_NAMED_WIDTH = 64  # pixels of a picture with text
_ROOM = 24  # pixels beside and below a picture, at most


@dataclass(frozen=True)
class SampleGrid:
    """The first images of a folder, in rows.

    Attributes:
        columns: images in a row.
        shown: how many images.
        names: of their classes, one for each image; None without text.
        by_class: whether all images of a column are of one class, whose name is then above the column.
        scale: how many times its size a picture is drawn; None for the least that leaves room for names.
    """

    columns: int
    shown: int
    names: tuple[str, ...] | None = None
    by_class: bool = False
    scale: int | None = None

    @classmethod
    def of(
        cls, labels: Sequence[int], names: Sequence[str] | None, columns: int | None = None, scale: int | None = None
    ) -> SampleGrid:
        """The grid of samples.

        Args:
            labels: of all samples, at least one.
            names: of the classes by label; None where they have none.
            columns: images in a row; None for one per class where classes come in turn, else 8.
            scale: as the attribute.
        """
        columns = columns or _classes_in_turn(labels) or _COLUMNS
        shown = min(len(labels), columns * max(1, min(_MOST_ROWS, len(labels) // columns)))
        by_class = all(labels[i] == labels[i % columns] for i in range(shown))
        texts = None if names is None else tuple(names[label] for label in labels[:shown])
        return cls(min(columns, shown), shown, texts, by_class, scale)

    def check(self, size: int | tuple[int, int]) -> None:
        """Raise FAEError where the grid would be too large, before any image is made.

        Args:
            size: of an image in pixels: its side, or (height, width).
        """
        high, wide = (size, size) if isinstance(size, int) else size
        scale, rows = self._scale(wide), -(-self.shown // self.columns)
        width, height = self.columns * (wide * scale + _ROOM), rows * (high * scale + _ROOM)
        if width * height > MAX_PIXELS:
            raise FAEError(
                f"grid.png would have about {width}x{height} pixels: give a smaller --scale, or fewer --columns"
            )

    def save(self, path: Path, image_path: Callable[[int], Path]) -> None:
        """Draw the grid.

        Args:
            path: the file to write.
            image_path: where an image is, by its number.

        Raises:
            FAEError: the grid is too large.
        """
        images = np.stack([np.asarray(Image.open(image_path(i))) for i in range(self.shown)])
        text: dict[str, Sequence[str]] = {}
        if self.names is not None:
            text = {"column_labels": self.names[: self.columns]} if self.by_class else {"labels": self.names}
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        save_grid(tensor, path, self.columns, **text, scale=self._scale(images.shape[2]))

    def _scale(self, width: int) -> int:
        """How many times its size a picture of this width is drawn."""
        return self.scale or (1 if self.names is None else -(-_NAMED_WIDTH // width))


def _classes_in_turn(labels: Sequence[int]) -> int | None:
    """How many classes repeat in one order; None where they do not, or are too few or too many for columns."""
    period = next((i for i in range(1, len(labels)) if labels[i] == labels[0]), len(labels))
    in_turn = all(label == labels[i % period] for i, label in enumerate(labels))
    return period if in_turn and len(set(labels[:period])) == period and 1 < period <= _MOST_CLASSES else None
