"""An unreadable image among millions is named and replaced, always by the same one; many of them stop the run."""

from __future__ import annotations

import pytest
from PIL import Image

from fae_core.errors import DataError
from fae_core.images import ImageSource, TolerantImages


class Numbers(ImageSource):
    def __init__(self, count: int, bad: set[int]) -> None:
        self.count, self.bad = count, bad

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Image.Image:
        if index in self.bad:
            raise DataError(f"cannot read image {index}")
        return Image.new("RGB", (1, 1), (index % 256, 0, 0))

    def name(self, index: int) -> str:
        return str(index)


def red(source: ImageSource, index: int) -> int:
    return source.read(index).getpixel((0, 0))[0]


def test_the_next_readable_image_takes_the_place() -> None:
    lines: list[str] = []
    source = TolerantImages(Numbers(10, {3, 4, 9}), lines.append)
    assert [red(source, i) for i in (2, 3, 4, 9, 3)] == [2, 5, 5, 0, 5]
    assert len(lines) == 3 and "cannot read image 3; the next one takes its place" in lines


def test_only_the_first_few_are_named() -> None:
    lines: list[str] = []
    source = TolerantImages(Numbers(100, set(range(0, 100, 5))), lines.append)
    for i in range(100):
        source.read(i)
    assert len(lines) == 5 and lines[-1].endswith("further ones are counted only")


def test_too_many_stop_the_run() -> None:
    source = TolerantImages(Numbers(1000, set(range(0, 1000, 4))), lambda _: None)
    with pytest.raises(DataError, match=r"100 of .* images could not be read"):
        for i in range(1000):
            source.read(i)


def test_a_desert_is_an_error() -> None:
    with pytest.raises(DataError, match="none of 16 images from 5 on"):
        TolerantImages(Numbers(100, set(range(5, 60))), lambda _: None).read(5)
