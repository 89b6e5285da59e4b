"""An unreadable image among millions is named and replaced, always by the same one; many of them stop the run."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from fae_core import LatentSpec
from fae_core.errors import DataError
from fae_core.images import ImageSource, TolerantImages, readable_source
from fae_core.training import LiveLatents


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


class Labelled(Numbers):
    labels, blocks = None, None

    def __init__(self, count: int, bad: set[int], blocks: list[int] | None = None) -> None:
        super().__init__(count, bad)
        self.labels, self.blocks = [index % 3 for index in range(count)], blocks


class Brightness:
    """A tokenizer whose latent is an image's first red value."""

    spec = LatentSpec(channels=1, height=1, width=1, image_size=1, backbone="none", mean=(0.0,), std=(2.0,))

    def to(self, device: str) -> None:
        pass

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :1, :1, :1] * 255


@pytest.mark.parametrize("blocks", [None, [6, 4]])
def test_trainers_on_images_replace_what_cannot_be_read_and_never_mislabel(
    blocks: list[int] | None, caplog: pytest.LogCaptureFixture
) -> None:
    source = readable_source(Labelled(10, {3, 4, 9}, blocks))
    live = LiveLatents(source, Brightness())
    z, labels = live.read(range(len(live)))
    read = z.flatten().round().int().tolist()
    assert [number % 3 for number in read] == labels.tolist(), (
        "each image has its own label, not that of the one it replaces"
    )
    assert read == [0, 1, 2, 5, 5, 5, 6, 7, 8, 0]
    named = [record.message for record in caplog.records]
    assert sum("cannot read image 3" in line for line in named) == 1


def test_a_selection_of_tolerant_images_is_tolerant() -> None:
    source = readable_source(Labelled(10, {3}, [10])).select([2, 3, 7])
    assert [red(source, i) for i in range(3)] == [2, 7, 7]
    assert [source.labels[source.place(i)] for i in range(3)] == [2, 1, 1]
