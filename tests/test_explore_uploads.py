"""Uploads and long work in `fae explore`, by clicks: what readers of data sets take is taken, and nothing else."""

from __future__ import annotations

import io
import signal
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explore_clicks import NEEDS, Visitor, chromium, png, serving
from PIL import Image

from fae_core.models.load import load_tokenizer
from fae_eval.explore.latents import enlarged
from fae_eval.explore.uploads import MOST_BYTES, read_picture

pytestmark = NEEDS
_RANDOM = np.random.default_rng(0)
_COLOURS = Image.fromarray(_RANDOM.integers(0, 256, (40, 60, 3), np.uint8))


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def header(width: int, height: int) -> bytes:
    """A PNG file that says how large its picture is, and hardly has one."""
    parts = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 99))
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(_COLOURS, "JPEG", exif=exif)


REFUSED = {
    "notes.txt": (b"hello", "not an image in a known format"),
    "empty.png": (b"", "not an image in a known format"),
    "drawing.svg": (b"<svg onload=alert(1)>", "not an image in a known format"),
    "cut.jpg": (encoded(_COLOURS, "JPEG")[:300], "cannot read image cut.jpg"),
    "cut.png": (encoded(_COLOURS, "PNG")[:3000], "cannot read image cut.png"),
    "wide.png": (header(70_000, 1), "70000x1 pixels"),
    "bomb.png": (header(20_000, 20_000), "pixels"),
    "range.tif": (encoded(Image.fromarray(_RANDOM.random((9, 9), np.float32)), "TIFF"), "no defined range"),
}
TAKEN = {
    "animated.gif": encoded(_COLOURS, "GIF", save_all=True, append_images=[Image.new("RGB", _COLOURS.size)]),
    "animated.webp": encoded(
        _COLOURS, "WEBP", save_all=True, append_images=[Image.new("RGB", _COLOURS.size)], lossless=True
    ),
    "sixteen.png": encoded(Image.fromarray(_RANDOM.integers(0, 2**16, (40, 60)).astype(np.uint16)), "PNG"),
    "alpha.png": encoded(Image.fromarray(_RANDOM.integers(0, 256, (40, 60, 4), np.uint8)), "PNG"),
    "turned.jpg": turned(),
    "cmyk.jpg": encoded(_COLOURS.convert("CMYK"), "JPEG"),
    "grey.pgm": encoded(_COLOURS.convert("L"), "PPM"),
    "palette.bmp": encoded(_COLOURS.convert("P"), "BMP"),
    "of no known name": encoded(_COLOURS, "PNG"),
    "one.png": encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that ends because its terminal was closed: uploads must not stay then, either."""
    with serving(tmp_path_factory.mktemp("uploads"), "--model", "cifar10", end=signal.SIGHUP) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def visitor(browser, address) -> Visitor:
    opened = Visitor(browser, address)
    opened.tab("Pictures")
    return opened


@pytest.mark.parametrize("name", REFUSED)
def test_what_readers_refuse_is_refused_with_their_reason(visitor, name: str) -> None:
    content, said = REFUSED[name]
    visitor.upload("A", name, content)
    assert said in visitor.wait("pictures-status", name)
    assert visitor.page.locator("#pictures-status [role=alert]").count() == 1


@pytest.mark.parametrize("name", TAKEN)
def test_what_readers_take_is_shown_as_they_read_it(visitor, name: str) -> None:
    visitor.upload("A", name, TAKEN[name])
    visitor.wait("pictures-status", f"picture A: {name}")
    expected = np.asarray(enlarged(read_picture(TAKEN[name], load_tokenizer("cifar10")).read, 512))
    image = visitor.page.locator("#picture-A img")
    visitor.page.wait_for_function("document.querySelector('#picture-A img').complete")
    shown = Image.open(io.BytesIO(visitor.context.request.get(image.get_attribute("src")).body()))
    assert np.array_equal(np.asarray(shown.convert("RGB")), expected)


def test_a_file_that_is_too_large_is_refused_by_page_and_server(visitor, address, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png() + b"\0" * MOST_BYTES)
    visitor.page.set_input_files(":has(> #upload-A) > input[type=file]", tmp_path / "large.png")
    visitor.page.wait_for_selector("text=exceed the maximum allowed size of 32")
    sent = {"files": {"name": "large.png", "mimeType": "image/png", "buffer": (tmp_path / "large.png").read_bytes()}}
    assert visitor.context.request.post(f"{address}gradio_api/upload", multipart=sent).status == 413


def test_a_second_order_of_one_visitor_ends_the_first(browser, address) -> None:
    visitor = Visitor(browser, address)
    visitor.fill("sample-steps", 250)
    visitor.fill("sample-count", 16)
    visitor.click("sample-start")
    visitor.wait("sample-status", "t = ")
    visitor.fill("sample-steps", 2)
    visitor.fill("sample-count", 1)
    visitor.click("sample-start")
    visitor.wait("sample-status", "drawn with seed 0")
    visitor.page.wait_for_timeout(500)
    assert len(visitor.pictures("sample-pictures")) == 1
    assert "drawn with seed 0" in visitor.page.inner_text("#sample-status")
    visitor.context.close()


def test_several_visitors_get_what_each_asked_for(browser, address) -> None:
    visitors = [Visitor(browser, address) for _ in range(3)]
    for number, each in enumerate(visitors):
        each.fill("sample-seed", 10 + number)
        each.fill("sample-steps", 12)
        each.fill("sample-count", 1 + number)
        each.choose("sample-class", ("cat", "ship", "horse")[number])
    for each in visitors:
        each.click("sample-start")
    for number, each in enumerate(visitors):
        each.wait("sample-status", f"drawn with seed {10 + number}")
        assert each.page.inner_text("#sample-pictures").split() == [("cat", "ship", "horse")[number]] * (1 + number)
    alone = Visitor(browser, address)
    for name, value in (("seed", 11), ("steps", 12), ("count", 2)):
        alone.fill(f"sample-{name}", value)
    alone.choose("sample-class", "ship")
    alone.click("sample-start")
    alone.wait("sample-status", "drawn with seed 11")
    assert alone.pictures("sample-pictures") == visitors[1].pictures("sample-pictures")
    for each in (*visitors, alone):
        each.context.close()
