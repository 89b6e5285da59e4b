"""Claims about the check of images: errors name what was found in place of images in [0, 1]; graphs are not broken."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from fae_core import SlotRandom
from fae_core.errors import FAEError
from fae_core.images import draw_grid, jitter_colors, require_images, save_image, to_pillow, to_uint8, unchecked_images
from fae_core.images.check import TOLERANCE, VARIABLE, require_range

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def spoilt(value: float) -> torch.Tensor:
    """Images with one value that is another."""
    images = IMAGES.clone()
    images[1, 2, 3, 4] = value
    return images


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (2 * IMAGES - 1, r"got \[-[01]\.?\d*, [01]\.?\d*\]; \(x \+ 1\) / 2"),
        (255 * IMAGES, r"got \[\d\.\d+, 25\d\]; divide by 255"),
        ((IMAGES - 0.45) / 0.225, r"got \[-[12]\.?\d*, 2\.\d+\]; encoders normalise by themselves"),
        (spoilt(math.nan), "got NaN"),
        (spoilt(math.inf), r"got \[.*, inf\]"),
        (spoilt(-math.inf), r"got \[-inf, "),
        (spoilt(1.01), r"got \[.*, 1\.01\]"),
        (spoilt(-0.01), r"got \[-0\.01, "),
        (spoilt(2.0).half(), r"got \[.*, 2\]"),
        (spoilt(-1.0).double(), r"got \[-1, "),
    ],
)
def test_values_out_of_range_are_refused_with_what_was_found(images: torch.Tensor, found: str) -> None:
    with pytest.raises(FAEError, match=r"images must lie in \[0, 1\], " + found):
        require_images(images)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ((255 * IMAGES).byte(), r"got torch\.uint8 \(2, 3, 8, 8\); divide by 255"),
        (IMAGES.long(), r"got torch\.int64"),
        (IMAGES > 0.5, r"got torch\.bool"),
        (IMAGES[0], r"got shape \(3, 8, 8\); add the batch's axis"),
        (IMAGES.permute(0, 2, 3, 1), r"got shape \(2, 8, 8, 3\); the channels come before"),
        (IMAGES[:, :1], r"got shape \(2, 1, 8, 8\); repeat grey"),
        (torch.rand(2, 4, 8, 8), r"got shape \(2, 4, 8, 8\); take alpha off"),
        (IMAGES[None], r"got shape \(1, 2, 3, 8, 8\)"),
        (torch.rand(2, 3, 0, 8), r"got shape \(2, 3, 0, 8\)"),
        (IMAGES.numpy(), r"got a numpy\.ndarray \(2, 3, 8, 8\)"),
        (list(IMAGES), "got a list of 2"),
        (Image.new("RGB", (8, 8)), r"got a PIL\.Image; fae_core\.images\.to_tensor"),
        (None, "got a builtins.NoneType"),
        ("photo.png", "got a builtins.str"),
    ],
)
def test_what_is_no_batch_of_images_is_refused_in_one_line(images: object, found: str) -> None:
    with pytest.raises(FAEError, match=found) as caught:
        require_images(images)
    assert "\n" not in str(caught.value)
    with unchecked_images(), pytest.raises(FAEError):  # of shape and type there is no leaving out
        require_images(images)


def test_rounding_passes_and_every_floating_type_does() -> None:
    for images in (
        IMAGES,
        IMAGES.half(),
        IMAGES.bfloat16(),
        IMAGES.double(),
        IMAGES[:0],
        IMAGES.to(torch.float8_e4m3fn),
    ):
        require_images(images)
    require_images(spoilt(1 + TOLERANCE / 2))
    require_images(spoilt(-TOLERANCE / 2))
    require_images(torch.empty(2, 3, 8, 8, device="meta"))
    require_images((2 * IMAGES).requires_grad_() / 2)


def test_the_look_at_values_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with unchecked_images():
        require_images(255 * IMAGES)
    with pytest.raises(FAEError):
        require_images(255 * IMAGES)
    monkeypatch.setenv(VARIABLE, "0")
    require_images(255 * IMAGES)


def halved(images: torch.Tensor) -> torch.Tensor:
    require_range(images)
    return images / 2


def test_vmap_reads_no_values() -> None:
    assert torch.equal(torch.func.vmap(halved)(255 * IMAGES), 127.5 * IMAGES)


def test_a_compiled_graph_has_no_break_and_no_check() -> None:
    compiled = torch.compile(halved, backend="eager", fullgraph=True)
    assert torch.equal(compiled(255 * IMAGES), 127.5 * IMAGES)


def test_pictures_of_other_ranges_are_not_drawn(tmp_path) -> None:
    wrong = 2 * IMAGES - 1
    for draw in (
        lambda: to_pillow(wrong[0]),
        lambda: save_image(wrong[0], tmp_path / "a.png"),
        lambda: draw_grid(wrong, 2),
        lambda: jitter_colors(wrong, 0.1, SlotRandom(0, range(2))),
    ):
        with pytest.raises(FAEError, match=r"must lie in \[0, 1\], got \[-0"):
            draw()
    with pytest.raises(FAEError, match="got NaN"):
        to_uint8(spoilt(math.nan))
    assert not list(tmp_path.iterdir())
    assert np.asarray(to_pillow(IMAGES[0])).shape == (8, 8, 3)
