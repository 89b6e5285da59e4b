"""Every odd image becomes RGB by a stated rule, every damaged or hostile one a DataError of one line that names it."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fae_core.errors import DataError
from fae_core.images import decode_image
from fae_core.images.decode import MAX_PIXELS, MAX_SIDE


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(data: bytes, x: int = 0, y: int = 0) -> tuple[int, int, int]:
    image = decode_image(data)
    assert image.mode == "RGB"
    return image.getpixel((x, y))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its few bytes cannot hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_greyscale_is_repeated() -> None:
    assert pixel(encoded(Image.new("L", (4, 4), 77))) == (77, 77, 77)


def test_one_bit_becomes_black_and_white() -> None:
    assert pixel(encoded(Image.new("1", (4, 4), 1))) == (255, 255, 255)


def test_palette_takes_its_colours() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert pixel(encoded(image)) == (10, 20, 30)


def test_cmyk_is_converted() -> None:
    assert pixel(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF")) == (255, 0, 0)


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (0, 255), (0, 0, 0)),
        ("LA", (0, 51), (204, 204, 204)),
    ],
)
def test_transparency_is_laid_on_white(mode: str, color: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    assert pixel(encoded(Image.new(mode, (2, 2), color))) == expected


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert pixel(encoded(image, transparency=1)) == (255, 255, 255)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (128, 0), (129, 1), (32_768, 128), (65_535, 255)])
def test_16_bit_greyscale_is_rounded(value: int, expected: int) -> None:
    data = encoded(Image.fromarray(np.full((3, 3), value, np.uint16)))
    assert pixel(data) == (expected,) * 3


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (16, 8), "black")
    image.paste((255, 255, 255), (0, 0, 8, 8))  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    turned = decode_image(encoded(image, "PNG", exif=exif))
    assert turned.size == (8, 16)
    assert (turned.getpixel((4, 2)), turned.getpixel((4, 13))) == ((255, 255, 255), (0, 0, 0))


def test_of_an_animation_the_first_frame_is_read() -> None:
    first, second = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 255))
    assert pixel(encoded(first, "GIF", save_all=True, append_images=[second])) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_truncated_file_is_an_error_that_names_it(kind: str, tmp_path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    path = tmp_path / "holiday.img"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"holiday\.img") as caught:
        decode_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_image_is_an_error(data: bytes) -> None:
    with pytest.raises(DataError, match="cannot read image thing"):
        decode_image(data, "thing")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width", "height"), [(100_000, 1), (1, MAX_SIDE + 1), (MAX_SIDE, MAX_SIDE), (2**14, MAX_PIXELS // 2**14 + 1)]
)
def test_bombs_are_refused_before_decoding(width: int, height: int) -> None:
    with pytest.raises(DataError, match=f"image bomb .*{width}x{height}|cannot read image bomb"):
        decode_image(png_claiming(width, height), "bomb")


def test_a_missing_file_is_an_error(tmp_path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        decode_image(tmp_path / "nothing.png")


def test_floating_point_pixels_have_no_range_to_map() -> None:
    with pytest.raises(DataError, match="floating-point"):
        decode_image(encoded(Image.new("F", (2, 2), 0.5), "TIFF"))


def test_integers_beyond_16_bits_are_refused() -> None:
    with pytest.raises(DataError, match=r"outside 0\.\.65535"):
        decode_image(encoded(Image.new("I", (2, 2), 70_000), "TIFF"))


_SEEDS = [
    encoded(Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 20, 3), np.uint8)), kind)
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
]


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Pillow's, about damaged metadata
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from(_SEEDS),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=12),
    st.integers(0, 10_000),
)
def test_any_damage_gives_an_rgb_image_or_a_data_error(data: bytes, edits: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(data)
    for place, value in edits:
        damaged[place % len(damaged)] = value
    try:
        assert decode_image(bytes(damaged[: max(1, cut)])).mode == "RGB"
    except DataError as error:
        assert "\n" not in str(error)
