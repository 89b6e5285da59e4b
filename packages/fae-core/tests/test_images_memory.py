"""The memory of reading an image: at most 16 bytes for a pixel of its file, and the result; measured, not counted."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_images_decode import chunk, png, tiff

from fae_core.images.budget import PixelBudget

SIDE = 2048
PIXELS = SIDE * SIDE

# Prints, for each file, the peak of resident memory above what there was before, in bytes.
MEASURE = """
import io, json, re, sys
from PIL import Image, BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from fae_core.images import center_crop, load_batch, open_images, to_tensor

def memory(kind):
    return 1024 * int(re.search(kind + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

small = io.BytesIO()
Image.new("RGB", (64, 64)).save(small, "PNG")
to_tensor(center_crop(Image.open(small), 32))
for path in sys.argv[2:]:
    before = memory("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    try:
        work = {
            "decode": lambda: open_images(path).read(0).size,
            "crop": lambda: list(load_batch(open_images(path), [0], 64).shape),
        }
        found = work[sys.argv[1]]()
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    print(json.dumps([memory("VmHWM") - before, found]), flush=True)
"""


def peaks(work: str, paths: list[Path]) -> list[tuple[int, object]]:
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, work, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of PIXELS pixels in each format and depth that takes a way of its own, most of them tiny."""
    folder = tmp_path_factory.mktemp("large")
    for color, channels in ((0, 1), (2, 3), (4, 2), (6, 4)):
        for depth in (8, 16):
            row = bytes(SIDE * channels * depth // 8)
            (folder / f"{color}-{depth}.png").write_bytes(png(SIDE, SIDE, depth, color, row))
    transparent = png(SIDE, SIDE, 16, 0, bytes(2 * SIDE), chunk(b"tRNS", b"\0\0"))
    (folder / "transparent.png").write_bytes(transparent)
    red, clear = Image.new("RGB", (SIDE, SIDE), "red"), Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 99))
    for name, image in (("opaque", red), ("clear", clear)):
        image.save(folder / f"{name}.webp", lossless=True, method=0)
        image.save(folder / f"{name}-lossy.webp", quality=5, method=0)
        image.save(folder / f"{name}.tif", compression="tiff_deflate")
    Image.new("P", (SIDE, SIDE)).save(folder / "palette.gif", transparency=0)
    red.save(folder / "baseline.jpg", quality=20)
    red.save(folder / "progressive.jpg", quality=20, progressive=True, subsampling=0)
    turned = Image.Exif()
    turned[0x0112] = 6
    red.convert("CMYK").save(folder / "cmyk.jpg", quality=20, progressive=True, exif=turned)
    red.save(folder / "colors.bmp")
    deep = tiff(np.zeros((SIDE, SIDE), np.uint16), 0)
    (folder / "inverted.tif").write_bytes(deep)
    (folder / "grey.pgm").write_bytes(b"P5 %d %d 65535\n" % (SIDE, SIDE) + bytes(2 * PIXELS))
    return sorted(folder.iterdir())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("work", ["decode", "crop"])
def test_a_picture_takes_at_most_16_bytes_a_pixel_of_its_file(work: str, large: list[Path]) -> None:
    for path, (peak, found) in zip(large, peaks(work, large), strict=True):
        assert found == ([SIDE, SIDE] if work == "decode" else [1, 3, 64, 64]), f"{path.name}: {found}"
        assert peak < 16 * PIXELS + 8 * 2**20, f"{path.name} took {peak / PIXELS:.1f} bytes a pixel"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_what_a_few_bytes_promise_is_not_paid_for(tmp_path: Path) -> None:
    """Texts, tiles and strips that are far larger than their picture."""
    texts = b"".join(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**20))) for _ in range(60))
    (tmp_path / "a.png").write_bytes(png(1, 4, 8, 2, b"\1\2\3", texts))
    (tmp_path / "b.tif").write_bytes(tiff(np.zeros((8, 8), np.uint8), 1, n322=32_768, n323=32_768, n324=0, n325=64))
    (tmp_path / "c.png").write_bytes(png(60_000, 1, 8, 2, bytes(180_000)))  # a strip, to be cut to a square
    (tmp_path / "d.png").write_bytes(png(1, 60_000, 8, 2, bytes(3)))
    found = peaks("crop", sorted(tmp_path.iterdir()))
    assert [isinstance(shape, list) for _, shape in found] == [True, False, True, True]
    assert max(peak for peak, _ in found) < 16 * 2**20


def test_threads_share_one_budget_and_a_large_picture_gets_its_turn() -> None:
    budget, held, most = PixelBudget(10), [0], [0]
    lock = threading.Lock()

    def work(pixels: int) -> None:
        with budget.share():
            budget.take(pixels + 3)  # a picture that could not be read, before the one that takes its place
            with budget.share():  # a part of the outer one: what is taken stays until that ends
                budget.take(pixels)
            with lock:
                held[0] += min(pixels, 10)
                most[0] = max(most[0], held[0])
            with lock:
                held[0] -= min(pixels, 10)

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(work, [1, 9, 3, 25, 2, 10] * 40))) == 240
    assert most[0] <= 10
    with budget.share():
        budget.take(10)  # everything was given back
