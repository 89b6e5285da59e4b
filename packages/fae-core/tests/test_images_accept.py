"""Claims about images that are no float tensors: each kind has its obvious meaning, and what has none is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fae_core import show
from fae_core.errors import DataError, FAEError
from fae_core.images import ImageTransform, image_batch, load_batch, open_images

SIZE = (24, 32)


def pixels(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), np.uint8)


WANTED = torch.from_numpy(pixels()).permute(0, 3, 1, 2) / 255
KINDS = {
    "floats": lambda p: WANTED,
    "bytes": lambda p: torch.from_numpy(p).permute(0, 3, 1, 2),
    "array of bytes": lambda p: p,
    "array of floats": lambda p: p.astype(np.float32) / 255,
    "pictures": lambda p: [Image.fromarray(one) for one in p],
    "tuple of byte tensors": lambda p: tuple(torch.from_numpy(p).permute(0, 3, 1, 2)),
    "list of arrays": list,
    "list of float tensors": lambda p: list(WANTED),
    "mixed": lambda p: [Image.fromarray(p[0]), p[1], WANTED[2]],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_means_the_same_batch(kind: str) -> None:
    images = KINDS[kind](pixels())
    before = pixels()
    batch = image_batch(images, SIZE)
    assert batch.is_floating_point() and batch.shape == (3, 3, *SIZE)
    torch.testing.assert_close(batch.float(), WANTED, atol=1e-7, rtol=0)
    assert not isinstance(images, np.ndarray) or np.array_equal(images if images.dtype == np.uint8 else before, before)
    one = images[0] if isinstance(images, (list, tuple)) else None
    if isinstance(one, (Image.Image, np.ndarray)):
        torch.testing.assert_close(image_batch(one, SIZE), WANTED[:1], atol=1e-7, rtol=0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_pictures_of_any_mode_are_read_as_their_files(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(pixels()[0])
    if mode == "I;16":
        picture = Image.fromarray(pixels()[0, ..., 0].astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
    path = tmp_path / ("p.tif" if mode == "CMYK" else "p.png")
    picture.save(path)
    wanted = load_batch(open_images(tmp_path), [0], (16, 16))
    opened = Image.open(path)
    assert torch.equal(image_batch(opened, (16, 16)), wanted)
    assert torch.equal(ImageTransform((16, 16))(picture)[None], wanted)
    assert opened.mode == Image.open(path).mode  # the picture is the caller's


def test_a_picture_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels()[0]).save(tmp_path / "p.png", exif=exif)
    (tmp_path / "data").mkdir()
    (tmp_path / "p.png").rename(tmp_path / "data" / "p.png")
    wanted = load_batch(open_images(tmp_path / "data"), [0], (16, 16))
    assert torch.equal(image_batch(Image.open(tmp_path / "data" / "p.png"), (16, 16)), wanted)


def test_a_transform_is_one_of_a_data_set() -> None:
    transform = ImageTransform((16, 16))
    one, minus = transform(Image.fromarray(pixels()[0])), ImageTransform((16, 16), low=-1.0)(pixels()[0])
    assert one.shape == (3, 16, 16) and one.dtype == torch.float32
    torch.testing.assert_close(minus, one * 2 - 1)
    torch.testing.assert_close(image_batch(minus[None], None, low=-1.0), one[None], atol=1e-6, rtol=0)
    assert repr(transform) == "ImageTransform(size=(16, 16), low=0.0)"


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        ([], "at least one"),
        (pixels().transpose(0, 3, 1, 2), "channels come first"),
        (pixels()[0, ..., 0], r"\(H, W, 3\)"),
        (pixels().astype(np.int64), "int64"),
        (["a.png"], "not a str"),
        ("a.png", "str"),
        ([WANTED], "of shape"),
        ([WANTED[0], WANTED[0, :, :8]], "different sizes"),
        (torch.zeros(3, *SIZE, 3, dtype=torch.uint8), "shape"),
        (WANTED.long(), "int64"),
        ([Image.new("RGB", (0, 8))], "no pixels"),
    ],
)
def test_other_kinds_are_one_line(images: object, complaint: str) -> None:
    with pytest.raises(FAEError, match=complaint) as raised:
        image_batch(images, SIZE)  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("picture", "complaint"),
    [
        (pixels()[0].transpose(2, 0, 1), r"of shape \(3, 24, 32\) and uint8"),
        (pixels()[0] / 255, "float64"),
        (pixels()[0, :0], "no pixels"),
    ],
)
def test_what_is_no_picture_to_transform_is_one_line(picture: np.ndarray, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as raised:
        ImageTransform(SIZE)(picture)
    assert "\n" not in str(raised.value)


def test_images_are_shown_side_by_side_with_labels() -> None:
    shown = show(WANTED, labels=["cat", 3, np.int64(7)])
    assert isinstance(shown, Image.Image) and shown.width > 2 * SIZE[1] and shown.height > 2 * SIZE[0]
    row = show(pixels(), columns=3)
    assert row.width >= 3 * SIZE[1] and row.height < 2 * SIZE[0]
    corner = np.asarray(row)
    start = np.argwhere((corner[:, :, None] != 255).any((2, 3)))[0]
    assert np.array_equal(corner[start[0] : start[0] + SIZE[0], start[1] : start[1] + SIZE[1]], pixels()[0])
    assert show(WANTED[0]).size == show(Image.fromarray(pixels()[0])).size
    assert show(torch.full((1, 3, 4, 4), 0.5, requires_grad=True)).width >= 4
    different = [Image.new("RGBA", (40, 10)), Image.new("L", (10, 30))]
    assert show(different, labels=torch.tensor([1, 2])).width > 2 * 200
    for wrong, labels in ((WANTED, ["a"]), (WANTED * 300, None), ([], None), (WANTED[:0], None)):
        with pytest.raises(FAEError):
            show(wrong, labels)
