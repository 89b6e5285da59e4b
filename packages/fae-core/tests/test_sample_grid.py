"""The grid of samples: a column per class where classes come in turn, their names, and how large pictures are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fae_core.errors import FAEError
from fae_core.sampling.grid import SampleGrid

NAMES = ["airplane", "automobile", "bird"]


@pytest.mark.parametrize(
    ("labels", "columns", "by_class"),
    [
        ([0, 1, 2] * 4, 3, True),  # equal
        ([2, 0] * 5, 2, True),  # a list
        ([0, 1, 2, 0], 3, True),  # a row begun
        ([0, 1], 2, True),  # fewer images than classes
        ([1] * 12, 8, True),  # one class
        ([0, 2, 1, 1, 0, 2, 2, 1, 0, 0, 1, 2, 1, 0, 1, 1], 8, False),  # random
        (list(range(20)) * 2, 20, True),
        (list(range(21)) * 2, 8, False),  # too many for columns
    ],
)
def test_columns_are_classes_where_they_come_in_turn(labels: list[int], columns: int, by_class: bool) -> None:
    grid = SampleGrid.of(labels, None)
    assert (grid.columns, grid.by_class) == (columns, by_class)


def test_asked_for_columns_are_taken_and_names_stand_where_they_belong() -> None:
    assert SampleGrid.of([0, 1, 2] * 4, NAMES, 6).by_class
    mixed = SampleGrid.of([0, 1, 2] * 4, NAMES, 4)
    assert not mixed.by_class and mixed.names == tuple(NAMES * 4)
    assert SampleGrid.of([0, 1] * 100, None, 2).shown == 32


@pytest.fixture
def drawn(tmp_path: Path):
    """A function that draws a grid of six images of 16 pixels, each of one grey."""
    for i in range(6):
        Image.fromarray(np.full((16, 16, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")

    def draw(names: list[str] | None, **options: int) -> np.ndarray:
        SampleGrid.of([0, 1, 2] * 2, names, **options).save(tmp_path / "grid.png", lambda i: tmp_path / f"{i}.png")
        return np.asarray(Image.open(tmp_path / "grid.png"))

    return draw


def test_pictures_are_enlarged_pixel_by_pixel(drawn) -> None:
    assert drawn(None).shape == (2 * 16 + 2, 3 * 16 + 2 * 2, 3)
    large = drawn(None, scale=3)
    assert large.shape == (2 * 48 + 2, 3 * 48 + 2 * 2, 3)
    assert (large[:48, 50:98] == 40).all() and (large[50:, 100:] == 200).all()


def test_names_stand_once_above_their_columns_with_room_for_them(drawn) -> None:
    named = drawn(NAMES)
    assert named.shape[1] == 3 * 64 + 2 * 2  # four times 16 pixels
    line = named.shape[0] - (2 * 64 + 2)
    assert line > 8
    dark = (named[:line] < 128).any(axis=(0, 2))
    assert all(dark[x : x + 64].any() for x in (0, 66, 132))
    longest = np.flatnonzero(dark[66:130])
    assert np.ptp(longest) > 45  # "automobile" is not cut


def test_a_grid_that_is_too_large_is_refused_before_anything_is_drawn() -> None:
    SampleGrid.of([0] * 64, None, scale=2).check(256)
    with pytest.raises(FAEError, match="smaller --scale, or fewer --columns"):
        SampleGrid.of([0] * 64, None, scale=32).check(256)
    with pytest.raises(FAEError, match="smaller --scale"):
        SampleGrid.of([0] * 16_000, None, 1000).check(256)
