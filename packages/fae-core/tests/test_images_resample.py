"""Images resized by resample.c are Pillow's to the bit, and so is everything where it is not or cannot be compiled."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling

from fae_core.images import center_crop, resample, to_tensor
from fae_core.images.compiled import load_compiled
from fae_core.images.resample import Resize, resized
from fae_core.images.transform import _center_crop_steps, crop_tensor, part_of_resized

SOURCE = Path(resample.__file__).with_name("resample.c")
compiled = pytest.mark.skipif(not resample.is_compiled(), reason="no C compiler here")

# Prints a digest of crops that eight threads make at once, as the first that this process does.
CROPS = """
import hashlib, sys, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from PIL import Image
from fae_core.images import resample
from fae_core.images.transform import crop_tensor
noise = np.random.default_rng(0)
images = [Image.fromarray(noise.integers(0, 256, (75 + i, 100, 3), dtype=np.uint8)) for i in range(8)]
ready = threading.Barrier(8)
def crop(image):
    ready.wait()
    return crop_tensor(image, 32).numpy().tobytes()
with ThreadPoolExecutor(8) as pool:
    crops = b"".join(pool.map(crop, images))
print(hashlib.sha256(crops).hexdigest(), resample.is_compiled())
"""


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def by_pillow(image: Image.Image, size: int | tuple[int, int]) -> np.ndarray:
    """What `center_crop` gives, from Pillow."""
    *halvings, last = _center_crop_steps(image.size, size)
    for step in halvings:
        image = image.resize(step.whole, step.filter)
    return np.asarray(part_of_resized(image, last.whole, last.box))


@compiled
def test_any_box_of_any_size_is_pillows() -> None:
    draw, used = np.random.default_rng(0), 0
    for seed in range(400):
        width, height, wide, high = (int(side) for side in np.exp(draw.uniform(0, 5.5, 4)))
        if seed % 2:
            factor = draw.uniform(0.1, 3)
            wide, high = max(1, round(width * factor)), max(1, round(height * factor))
        left, top = int(draw.integers(0, wide)), int(draw.integers(0, high))
        box = (left, top, int(draw.integers(left + 1, wide + 1)), int(draw.integers(top + 1, high + 1)))
        method = (Resampling.BOX, Resampling.BICUBIC)[int(draw.integers(2))]
        image = noise(width, height, seed)
        found = resized(image, [Resize((wide, high), box, method)])
        if found is not None:
            used += 1
            want = np.asarray(image.resize((wide, high), method).crop(box))
            np.testing.assert_array_equal(found[..., :3], want, f"{image.size} to {wide, high}, {box}, {method}")
    assert used > 200


@compiled
def test_what_versions_of_pillow_order_differently_is_left_to_pillow() -> None:
    """Pillow 13 resizes along columns first where the height shrinks by more than twice as much as the width."""
    for height, computed in ((64, True), (65, False)):
        assert (resized(noise(32, height), [Resize((16, 32), (0, 0, 16, 32), Resampling.BOX)]) is not None) == computed
    assert resized(Image.new("L", (32, 32)), [Resize((16, 16), (0, 0, 16, 16), Resampling.BOX)]) is None


def test_center_crops_are_pillows_whatever_the_shape() -> None:
    draw = np.random.default_rng(1)
    for seed in range(150):
        width, height = (int(side) for side in np.exp(draw.uniform(0, 6, 2)))
        size = int(np.exp(draw.uniform(0, 5))), int(np.exp(draw.uniform(0, 5)))
        image = noise(width, height, seed)
        want = by_pillow(image, size)
        np.testing.assert_array_equal(np.asarray(center_crop(image, size)), want, f"{image.size} to {size}")
        assert torch.equal(crop_tensor(image, size), to_tensor(Image.fromarray(want)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_center_crop_takes_every_mode(mode: str) -> None:
    image = noise(60, 45).convert("RGB" if mode == "LA" else mode).convert(mode)
    crop = center_crop(image, 16)
    assert (crop.mode, crop.size) == (mode, (16, 16))
    np.testing.assert_array_equal(np.asarray(crop), by_pillow(image, 16))


def test_pixels_are_right_however_they_lie_in_memory() -> None:
    whole = noise(300, 200)
    images = {
        "cut": whole.crop((7, 3, 180, 150)),
        "cut beyond its edges": whole.crop((-20, -10, 310, 215)),
        "turned": whole.transpose(Image.Transpose.ROTATE_90),
        "a view of a buffer": Image.frombuffer("RGBX", (300, 200), whole.tobytes("raw", "RGBX"), "raw", "RGBX", 0, 1),
        "with a fourth channel dropped": whole.convert("RGBA").convert("RGB"),
        "many blocks of memory": noise(2600, 2100),
    }
    for name, image in images.items():
        np.testing.assert_array_equal(np.asarray(center_crop(image, 64)), by_pillow(image, 64), name)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 1), (1, 5000), (5000, 1), (65_535, 2), (2, 65_535), (3000, 2500)])
def test_tiny_long_and_large_images_are_cropped(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (3, 200, 90))
    for side in (1, 2, 33):
        assert crop_tensor(image, side).mul(255).round().unique().tolist() == [3, 90, 200]


def test_a_tensor_that_is_given_is_filled() -> None:
    batch = torch.full((3, 3, 20, 30), -1.0)
    for image in (noise(75, 50), noise(40, 400)):
        row = crop_tensor(image, (20, 30), batch[1])
        assert row.data_ptr() == batch[1].data_ptr()
        assert torch.equal(row, to_tensor(Image.fromarray(by_pillow(image, (20, 30)))))
    assert (batch[::2] == -1).all()


@compiled
@pytest.mark.parametrize(
    "out",
    [
        torch.empty(3, 20, 31),
        torch.empty(30, 20, 3).permute(2, 1, 0),
        torch.empty(3, 20, 30).double(),
        torch.empty(20, 30),
    ],
)
def test_a_tensor_that_cannot_be_filled_is_refused(out: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="contiguous fp32"):
        crop_tensor(noise(75, 50), (20, 30), out)


def test_many_threads_give_what_one_gives() -> None:
    images = [noise(100 + seed, 75, seed) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        crops = list(pool.map(lambda image: crop_tensor(image, 32), images))
    assert all(torch.equal(crop, crop_tensor(image, 32)) for crop, image in zip(crops, images, strict=True))


@pytest.mark.parametrize(
    "setting", [{}, {"FAE_COMPILE_C": "0"}, {"CC": "/nothing/cc"}], ids=["as it is", "turned off", "no compiler"]
)
def test_crops_are_the_same_with_and_without_a_compiler(setting: dict[str, str]) -> None:
    draw = np.random.default_rng(0)
    images = [Image.fromarray(draw.integers(0, 256, (75 + i, 100, 3), dtype=np.uint8)) for i in range(8)]
    want = b"".join(to_tensor(Image.fromarray(by_pillow(image, 32))).numpy().tobytes() for image in images)
    done = subprocess.run([sys.executable, "-c", CROPS], env=os.environ | setting, capture_output=True, text=True)
    digest, is_compiled = done.stdout.split()
    assert digest == hashlib.sha256(want).hexdigest()
    assert is_compiled == str(resample.is_compiled() and not setting)
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["/nothing/cc", "false", "cat", "cc -no-such-option", "'", "true"])
def test_without_a_working_compiler_there_is_no_library(
    command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", command)
    assert load_compiled(SOURCE) is None
    assert capfd.readouterr() == ("", "")


@compiled
def test_a_library_leaves_no_files_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert load_compiled(SOURCE) is not None
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert load_compiled(SOURCE) is None


@compiled
@pytest.mark.parametrize(
    "change",
    [
        ("a = -0.5", "a = -0.6"),
        ("<< (BITS - 1)", "<< (BITS - 2)"),
        ("scale < 1.0 ? 1.0 : scale", "scale"),
        ("/ 255", "/ 256"),
    ],
)
def test_a_library_with_other_pixels_is_not_used(tmp_path: Path, change: tuple[str, str]) -> None:
    code = SOURCE.read_text()
    assert change[0] in code
    (tmp_path / "other.c").write_text(code.replace(*change))
    library = load_compiled(tmp_path / "other.c")
    assert library is not None
    assert not resample._agrees(library)
