"""Every odd image becomes RGB by a stated rule, every damaged or hostile one a DataError of one line that names it."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from fae_core.errors import DataError
from fae_core.images import decode_image, to_rgb
from fae_core.images.decode import MAX_PIXELS, MAX_SIDE


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(data: bytes, x: int = 0, y: int = 0) -> tuple[int, int, int]:
    image = decode_image(data)
    assert image.mode == "RGB"
    return image.getpixel((x, y))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, color: int, row: bytes, before: bytes = b"", behind: bytes = b"") -> bytes:
    """A PNG of equal rows, with chunks before and behind its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + row) * height))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + behind + chunk(b"IEND", b"")


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its few bytes cannot hold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def tiff(pixels: np.ndarray, photometric: int, **tags: int) -> bytes:
    """An uncompressed TIFF of one strip; pixels: (H, W) or (H, W, C). tags such as "n258=12" replace or add some."""
    height, width, *channels = pixels.shape
    samples, data = channels[0] if channels else 1, pixels.tobytes()
    entries = {256: width, 257: height, 258: 8 * pixels.itemsize, 259: 1, 262: photometric, 273: 0, 277: samples}
    entries |= {278: height, 279: len(data)} | {int(name[1:]): value for name, value in tags.items()}
    repeated = {258, 339} if samples > 1 else set()
    start = 8 + 2 + 12 * len(entries) + 4
    directory, behind = b"", b""
    for tag, value in sorted(entries.items()):
        if tag in repeated:
            directory += struct.pack("<HHII", tag, 3, samples, start + len(behind))
            behind += struct.pack(f"<{samples}H", *[value] * samples)
        else:
            place = start + 2 * samples * len(repeated & entries.keys())
            directory += struct.pack("<HHII", tag, 4, 1, place if tag in (273, 324) else value)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + behind + data


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


LARGE = """
import sys, warnings
import torch
before = list(warnings.filters)
from fae_core.images.decode import decode_image
assert warnings.filters == before
{begin}
try:
    decode_image(sys.stdin.buffer.read())
except Exception as error:
    print(error)
"""


@pytest.mark.parametrize("ours", [False, True])
def test_pillow_warns_of_large_images_except_in_processes_of_our_own(ours: bool) -> None:
    """Filters of warnings are the whole process's: importing the package changes none."""
    begin = "from fae_core.cli.process import begin_process; begin_process()" if ours else ""
    code = [sys.executable, "-c", LARGE.format(begin=begin)]
    found = subprocess.run(code, input=png_claiming(10_000, 9_000), capture_output=True, check=True)
    assert found.stdout.startswith(b"cannot read image")
    assert (b"DecompressionBombWarning" in found.stderr) is not ours


def test_a_missing_file_is_an_error(tmp_path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        decode_image(tmp_path / "nothing.png")


def test_floating_point_pixels_have_no_range_to_map() -> None:
    with pytest.raises(DataError, match="floating-point"):
        decode_image(encoded(Image.new("F", (2, 2), 0.5), "TIFF"))


def test_integers_beyond_16_bits_are_refused() -> None:
    with pytest.raises(DataError, match=r"outside 0\.\.65535"):
        decode_image(encoded(Image.new("I", (2, 2), 70_000), "TIFF"))


GREY = np.full((8, 8), 200, np.uint8)


@pytest.mark.parametrize(
    "data",
    [
        tiff(GREY.astype(np.uint32), 1),
        tiff(GREY.astype(np.int32), 1, n339=2),
        tiff(GREY.astype(np.int16), 1, n339=2),
        tiff(GREY.astype(np.int8), 1, n339=2),
        tiff(GREY.astype(np.float32), 0, n339=3),
        tiff(GREY.astype(np.float64), 1, n339=3),
        b"Pf 1 1 -1.0\n" + struct.pack("<f", 0.5),
    ],
)
def test_pixels_without_a_white_level_are_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="cannot read image odd") as caught:
        decode_image(data, "odd")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tiff(GREY, 1), 200),
        (tiff(GREY, 0), 55),
        (tiff(GREY.astype(np.uint16) * 257, 1), 200),
        (tiff(GREY.astype(np.uint16) * 257, 0), 55),
        (tiff(np.full((8, 6), 255, np.uint8), 1, n256=4, n258=12), 255),
        (b"P5 2 2 65535\n" + b"\x80\x80" * 4, 128),
        (b"P5 2 2 1023\n" + b"\x03\xff" * 4, 255),
        (b"P2 2 2 1023\n1023 1023 1023 1023\n", 255),
    ],
)
def test_grey_of_any_depth_keeps_black_and_white_where_the_file_has_them(data: bytes, expected: int) -> None:
    assert pixel(data) == (expected,) * 3


def bmp(alpha: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 108, 8, 8, 1, 32, 3, 256, 2835, 2835, 0, 0)
    header += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    pixels = struct.pack("<BBBB", 40, 80, 200, alpha) * 64
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + 256, 0, 0, 14 + len(header)) + header + pixels


def test_an_alpha_channel_that_may_be_padding_and_is_empty_is_ignored() -> None:
    colors = np.zeros((8, 8, 4), np.uint8)
    colors[..., :3] = (10, 20, 30)
    assert pixel(bmp(0)) == pixel(bmp(255)) == (200, 80, 40)
    assert pixel(tiff(colors, 2)) == pixel(tiff(colors, 2, n338=0)) == (10, 20, 30)
    assert pixel(tiff(colors, 2, n338=2)) == (255, 255, 255), "here it is said to be transparency"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(4, 4, 2, 0, b"\x55", chunk(b"tRNS", b"\0\1")), (255, 255, 255)),
        (png(4, 4, 2, 0, b"\x55", chunk(b"tRNS", b"\0\0")), (85, 85, 85)),
        (png(2, 4, 4, 0, b"\x55", chunk(b"tRNS", b"\0\5")), (255, 255, 255)),
        (png(8, 4, 1, 0, b"\x00", chunk(b"tRNS", b"\0\0")), (255, 255, 255)),
        (png(1, 4, 16, 0, b"\x10\x10", chunk(b"tRNS", b"\x10\x10")), (255, 255, 255)),
        (png(1, 4, 16, 0, b"\x10\x10", chunk(b"tRNS", b"\x10\x11")), (16, 16, 16)),
        (png(1, 4, 8, 2, b"\1\2\3", chunk(b"tRNS", b"\0\1\0\2\0\3")), (255, 255, 255)),
        (png(1, 4, 16, 2, b"\1\2\3\4\5\6", chunk(b"tRNS", b"\1\2\3\4\5\6")), (255, 255, 255)),
        (png(1, 4, 16, 2, b"\1\2\3\4\5\6", chunk(b"tRNS", b"\x09\2\3\4\5\6")), (1, 3, 5)),
        (png(1, 4, 16, 4, b"\x80\x80\xff\xff"), (128, 128, 128)),
        (png(1, 4, 16, 6, bytes(8)), (255, 255, 255)),
    ],
)
def test_a_transparent_colour_is_white_at_any_depth(data: bytes, expected: tuple[int, int, int]) -> None:
    assert pixel(data) == expected


def test_cmyk_jpegs_are_not_inverted() -> None:
    red, green, blue = pixel(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert red > 250 and max(green, blue) < 5


_HUGE = zlib.compress(bytes(3 * 2**20))


@pytest.mark.parametrize(
    "body",
    [
        (b"zTXt", b"Comment\0\0" + _HUGE),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + _HUGE),
        (b"zTXt", b"Raw profile type exif\0\0" + _HUGE),
        (b"iCCP", b"profile\0\0" + _HUGE),
        (b"tEXt", b"Comment\0" + bytes(2 * 2**20)),
        (b"zTXt", b"Comment\0\0damaged"),
        (b"iCCP", b"no end"),
        (b"eXIf", b"damaged"),
        (b"eXIf", b"II*\0\xff\xff\xff\xff"),
    ],
)
def test_metadata_that_is_not_used_makes_no_image_unreadable(body: tuple[bytes, bytes]) -> None:
    for place in ("before", "behind"):
        assert pixel(png(1, 4, 8, 2, b"\1\2\3", **{place: chunk(*body)})) == (1, 2, 3)


def test_an_orientation_in_a_pngs_texts_is_applied() -> None:
    image = Image.new("RGB", (16, 8), "black")
    image.paste((255, 255, 255), (0, 0, 8, 8))
    for kept in ({"zip": True}, {"zip": False}):
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Comment", "x" * 1000, zip=True)
        texts.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="3"/>', **kept)
        turned = decode_image(encoded(image, pnginfo=texts))
        assert (turned.getpixel((2, 2)), turned.getpixel((13, 2))) == ((0, 0, 0), (255, 255, 255))
        assert not turned.getexif(), "who reads on must not turn it again"


def test_bands_of_a_large_image_meet_without_a_seam() -> None:
    values = np.random.default_rng(0).integers(0, 65_536, (5, 2**19 + 7), np.uint16)
    found = np.asarray(to_rgb(Image.open(io.BytesIO(encoded(Image.fromarray(values[:, :60_000].copy()))))))
    np.testing.assert_array_equal(found[..., 1], np.rint(values[:, :60_000] / 257))
    colors = np.random.default_rng(1).integers(0, 256, (2_000, 1_100, 4), np.uint8)
    image = Image.fromarray(colors)
    white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(white))


def test_what_is_no_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    odd = (tmp_path / "pipe.png", tmp_path, "a\0b", "x" * 5000, Image.new("RGB", (2, 2)), None, np.zeros((2, 2)))
    for source in odd:
        with pytest.raises(DataError) as caught:
            decode_image(source)
        assert "\n" not in str(caught.value)


def test_a_tile_far_larger_than_its_image_is_refused() -> None:
    with pytest.raises(DataError, match="in tiles of 32768x32768"):
        decode_image(tiff(GREY, 1, n322=32_768, n323=32_768, n324=0, n325=64))


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
