"""Crops, colours, and the way between Pillow images and tensors. Tensors are (..., 3, H, W), float in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor

from fae_core.errors import DataError
from fae_core.images.check import require_images, require_range
from fae_core.random import SlotRandom

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, as Pillow has it


def center_crop(image: Image, size: int | tuple[int, int]) -> Image:
    """The centre of an image at `size` (one side, or (height, width)), as ADM prepares ImageNet.

    Halved with a box filter while twice as large as needed, then resized bicubically until it just covers `size`, then cut.
    """
    height, width = as_height_width(size)
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    covering = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    image = image.resize(covering, Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def crop_boxes(
    sizes: Sequence[tuple[int, int]],
    random: SlotRandom,
    *,
    scale: tuple[float, float] = (0.8, 1.0),
    center: float = 1.0,
    stream: str = "crop",
) -> list[Box]:
    """One random square per image, a pure function of `random`'s slots.

    sizes: (width, height) of each image. scale: range of the side as a fraction of the short side. center: the part of
    the free range, around its middle, from which offsets are drawn (1 = anywhere, 0 = always the middle).
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise DataError(f"the crop scale must be 0 < low <= high <= 1, not {scale[0]},{scale[1]}")
    if not 0 <= center <= 1:
        raise DataError(f"the crop centre must lie between 0 and 1, not {center}")
    if len(sizes) != len(random):
        raise DataError(f"{len(sizes)} images for {len(random)} random slots")
    boxes = []
    for (width, height), (u, v, w) in zip(sizes, random.uniform((3,), stream).tolist(), strict=True):
        side = max(1, round(min(width, height) * (scale[0] + (scale[1] - scale[0]) * u)))
        left, top = (round((full - side) * (0.5 + center * (draw - 0.5))) for full, draw in ((width, v), (height, w)))
        boxes.append((left, top, left + side, top + side))
    return boxes


def crop_resize(image: Image, box: Box, size: int | tuple[int, int]) -> Image:
    """The box of an image, brought to `size` as `center_crop` does."""
    return center_crop(image.crop(box), size)


def jitter_colors(images: Tensor, amount: float, random: SlotRandom, *, stream: str = "jitter") -> Tensor:
    """Brightness, contrast and saturation of each image times its own factors in [1 - amount, 1 + amount]; clamped to [0, 1].

    images: (B, 3, H, W) in [0, 1]; random: B slots. Raises FAEError for images out of range.
    """
    require_images(images)
    factors = 1 + amount * (2 * random.uniform((3,), stream, images.device) - 1)
    brightness, contrast, saturation = factors.to(images.dtype)[..., None, None, None].unbind(1)
    images = images * brightness
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + contrast * (images - mean)
    grey = (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    return (grey + saturation * (images - grey)).clamp(0, 1)


def to_tensor(image: Image) -> Tensor:
    """An RGB image as (3, H, W), fp32 in [0, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.permute(2, 0, 1).contiguous().float() / 255


def to_uint8(images: Tensor) -> Tensor:
    """Floats in [0, 1] as uint8, rounded (truncation would darken by half a level); values outside are clamped. Raises FAEError for NaN."""
    require_range(images, -math.inf, math.inf)
    return (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)


def as_height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size given as one side or as both. Raises DataError where a side is not positive."""
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise DataError(f"an image size must be positive, not {height}x{width}")
    return height, width
