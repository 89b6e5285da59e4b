"""Crops and colours: exact on cases computed by hand, and pure functions of their slots."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fae_core.errors import DataError, FAEError
from fae_core.images import center_crop, crop_boxes, crop_resize, jitter_colors, to_tensor, to_uint8
from fae_core.random import SlotRandom


def ramp(width: int, height: int) -> Image.Image:
    """Red counts columns, green counts rows."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


def test_center_crop_of_the_right_size_is_the_identity() -> None:
    image = ramp(8, 8)
    assert center_crop(image, 8).tobytes() == image.tobytes()


def test_center_crop_cuts_the_middle() -> None:
    cut = np.asarray(center_crop(ramp(13, 8), 8))
    assert cut[0, :, 0].tolist() == list(range(2, 10))  # (13 - 8) // 2 = 2
    assert cut[:, 0, 1].tolist() == list(range(8))


def test_center_crop_halves_with_a_box_filter() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    halved = pixels.reshape(4, 2, 4, 2, 3).astype(float).mean((1, 3))
    got = np.asarray(center_crop(Image.fromarray(pixels), 4)).astype(float)
    assert np.abs(got - halved).max() <= 1  # Pillow filters rows and columns one after the other and rounds each time


def test_center_crop_is_the_recipe_of_adm() -> None:
    """Against the published steps: halve while the short side is at least twice as long, then bicubic, then cut."""
    rng = np.random.default_rng(1)
    for width, height, size in ((301, 211, 64), (64, 200, 33), (50, 40, 64), (129, 128, 64)):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        want = image
        while min(want.size) >= 2 * size:
            want = want.resize((want.width // 2, want.height // 2), Image.Resampling.BOX)
        factor = size / min(want.size)
        want = want.resize((round(want.width * factor), round(want.height * factor)), Image.Resampling.BICUBIC)
        array = np.asarray(want)
        y, x = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
        np.testing.assert_array_equal(np.asarray(center_crop(image, size)), array[y : y + size, x : x + size])


@pytest.mark.parametrize("size", [(4, 12), (12, 4), (5, 7)])
def test_center_crop_gives_any_height_and_width(size: tuple[int, int]) -> None:
    for image in (ramp(31, 17), ramp(3, 50), ramp(1, 1)):
        assert center_crop(image, size).size == (size[1], size[0])


def test_an_image_size_must_be_positive() -> None:
    with pytest.raises(DataError, match="positive"):
        center_crop(ramp(4, 4), 0)


def test_crop_boxes_stay_within_their_bounds() -> None:
    sizes = [(100, 60)] * 2000
    boxes = np.array(crop_boxes(sizes, SlotRandom(0, range(2000)), scale=(0.8, 1.0), center=0.6))
    left, top, right, bottom = boxes.T
    side = right - left
    assert np.array_equal(side, bottom - top)
    assert (side.min(), side.max()) == (48, 60)
    for offset, free in ((left, 100 - side), (top, 60 - side)):
        assert (offset >= np.floor(0.2 * free)).all()
        assert (offset <= np.ceil(0.8 * free)).all()
    # The whole middle 60 % is used: for a side of 48 that is 10..42 of 52 columns.
    assert left.min() <= 12
    assert left.max() >= 38


def test_center_zero_is_the_middle() -> None:
    (box,) = crop_boxes([(10, 8)], SlotRandom(3, [0]), scale=(0.5, 0.5), center=0.0)
    assert box == (3, 2, 7, 6)


def test_a_crop_belongs_to_its_slot() -> None:
    sizes = [(90 + i, 70) for i in range(6)]
    together = crop_boxes(sizes, SlotRandom(7, range(6)))
    alone = [crop_boxes([sizes[i]], SlotRandom(7, [i]))[0] for i in range(6)]
    assert together == alone
    assert len(set(together)) > 1
    assert together != crop_boxes(sizes, SlotRandom(8, range(6)))


@pytest.mark.parametrize(
    "options", [{"scale": (0.0, 1.0)}, {"scale": (0.9, 0.8)}, {"scale": (0.5, 1.1)}, {"center": 1.5}]
)
def test_impossible_crops_are_errors(options: dict) -> None:
    with pytest.raises(DataError):
        crop_boxes([(10, 10)], SlotRandom(0, [0]), **options)


def test_crop_resize_takes_only_the_box() -> None:
    image = Image.new("RGB", (20, 20), "black")
    image.paste((255, 255, 255), (5, 5, 15, 15))
    assert np.asarray(crop_resize(image, (5, 5, 15, 15), 4)).min() == 255


def test_tensors_and_bytes_round_trip_exactly() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    tensor = to_tensor(Image.fromarray(pixels))
    assert (tensor.dtype, tensor.shape) == (torch.float32, (3, 16, 16))
    assert (tensor.min().item(), tensor.max().item()) == (0.0, 1.0)
    np.testing.assert_array_equal(to_uint8(tensor).permute(1, 2, 0).numpy(), pixels)


def test_to_uint8_rounds_and_clamps() -> None:
    values = torch.tensor([-1.0, 0.499 / 255, 0.501 / 255, 254.6 / 255, 2.0])
    assert to_uint8(values).tolist() == [0, 0, 1, 255, 255]
    with pytest.raises(FAEError, match=r"must be floats in .* got torch.uint8"):
        to_uint8(to_uint8(values))


def test_no_jitter_is_the_identity() -> None:
    images = torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(jitter_colors(images, 0.0, SlotRandom(0, range(3))), images)


def test_jitter_of_a_grey_image_is_its_brightness_factor() -> None:
    """Contrast and saturation leave a flat grey image alone, so only brightness is left to see."""
    grey = torch.full((4, 3, 6, 6), 0.5)
    random = SlotRandom(5, range(4))
    factors = 1 + 0.05 * (2 * random.uniform((3,), "jitter") - 1)
    out = jitter_colors(grey, 0.05, random)
    torch.testing.assert_close(out, (0.5 * factors[:, 0])[:, None, None, None].expand_as(out))
    assert out.std() > 0


def test_jitter_belongs_to_its_slot() -> None:
    images = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    whole = jitter_colors(images, 0.1, SlotRandom(1, range(4)))
    torch.testing.assert_close(whole[2:3], jitter_colors(images[2:3], 0.1, SlotRandom(1, [2])))
    assert whole.min() >= 0
    assert whole.max() <= 1


@pytest.mark.parametrize("size", [(4000, 3), (3, 4000), (1, 60_000)])
def test_a_strip_that_is_cut_before_it_is_resized_looks_as_if_it_were_cut_afterwards(size: tuple[int, int]) -> None:
    smooth = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    image = Image.fromarray(smooth).resize(size, Image.Resampling.BICUBIC)
    found = np.asarray(center_crop(image, 16), np.int64)
    scale = 16 / min(size)
    middle = image.crop(
        [round(side / 2 - 40 / scale) if side > 100 else 0 for side in size]
        + [round(side / 2 + 40 / scale) if side > 100 else side for side in size]
    )
    wanted = np.asarray(center_crop(middle, 16), np.int64)
    assert np.abs(found - wanted).max() <= 3


@pytest.mark.parametrize("size", [0, -1, 2.5, True, (4,), (4, 0), "8", None, (1, 2, 3), 10**9, (2**14, 2**14)])
def test_a_size_that_is_none_is_refused_in_one_line(size: object) -> None:
    with pytest.raises(DataError) as caught:
        center_crop(Image.new("RGB", (4, 4)), size)
    assert "\n" not in str(caught.value)


def test_a_tensor_is_made_of_rgb_alone() -> None:
    for mode in ("L", "RGBA", "I;16", "P"):
        with pytest.raises(DataError, match="to_rgb"):
            to_tensor(Image.new(mode, (4, 4)))
