"""Crops, changes of colour, conversion of Pillow images and tensors. Tensors are (..., 3, H, W), float in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image, Resampling, frombytes
from torch import Tensor

from fae_core.errors import DataError, FAEError
from fae_core.images.check import require_images, require_range
from fae_core.images.decode import MAX_PIXELS
from fae_core.images.resample import Box, Resize, planes, resized
from fae_core.random import SlotRandom

_LONG = 8  # from so many times the pixels that are asked for, an image is cut before it is resized rather than after


def center_crop(image: Image, size: int | tuple[int, int]) -> Image:
    """The centre of an image, as ADM prepares ImageNet.

    The image is halved with a box filter while it is twice as large as needed, then resized bicubically so that it just
    covers `size`, then cut.

    Args:
        image: any image.
        size: of the result in pixels, one side or (height, width).

    Raises:
        DataError: the size is no size of an image.
    """
    steps = _center_crop_steps(image.size, size)
    pixels = _without_pillow(image, steps)
    if pixels is not None:
        return frombytes("RGB", steps[-1].size, pixels.tobytes(), "raw", "RGBX")
    for step in steps[:-1]:
        image = image.resize(step.whole, step.filter)
    return part_of_resized(image, steps[-1].whole, steps[-1].box)


def crop_tensor(image: Image, size: int | tuple[int, int], out: Tensor | None = None) -> Tensor:
    """`to_tensor(center_crop(image, size))` in less time.

    Args:
        image: an RGB image.
        size: as `center_crop` takes it.
        out: (3, height, width), fp32 on the CPU and contiguous, which is filled and returned; None for a new tensor.

    Raises:
        DataError: the size is no size of an image, or the image is not RGB.
    """
    steps = _center_crop_steps(image.size, size)
    pixels = _without_pillow(image, steps)
    if pixels is None:
        tensor = to_tensor(center_crop(image, size))
        return tensor if out is None else out.copy_(tensor)
    out = torch.empty(3, *pixels.shape[:2], dtype=torch.float32, device="cpu") if out is None else out
    planes(pixels, out.numpy())
    return out


def crop_pair(
    image: Image,
    size: int | tuple[int, int],
    other: int | tuple[int, int],
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """An image at two sizes, as an encoder reads it and as it is to come back, each a crop of the image itself.

    A small image that was enlarged for a backbone and is made smaller again would be softer than it was.

    Args:
        image: an RGB image.
        size: of the first crop, as `center_crop` takes it.
        other: of the second one. With other proportions it is the first one, resized, so that both show the same.
        out: two tensors as of `crop_tensor`, which are filled and returned; None for new ones.

    Raises:
        DataError: as `crop_tensor`.
    """
    (height, width), (tall, wide) = as_height_width(size), as_height_width(other)
    first = crop_tensor(image, size, None if out is None else out[0])
    if height * wide == width * tall:
        return first, crop_tensor(image, other, None if out is None else out[1])
    second = resize(first[None], (tall, wide))[0]
    return first, second if out is None else out[1].copy_(second)


def _without_pillow(image: Image, steps: list[Resize]) -> np.ndarray | None:
    """The pixels of a centre crop, (height, width, 4), where they can be computed without Pillow."""
    before = steps[-2].whole if len(steps) > 1 else image.size
    return None if _is_strip(before, steps[-1].whole, steps[-1].size) else resized(image, steps)


def _center_crop_steps(size: tuple[int, int], wanted: int | tuple[int, int]) -> list[Resize]:
    """What `center_crop` does to an image of (width, height) pixels."""
    (width, height), (tall, wide) = size, as_height_width(wanted)
    steps = []
    while width >= 2 * wide and height >= 2 * tall:
        width, height = width // 2, height // 2
        steps.append(Resize((width, height), (0, 0, width, height), Resampling.BOX))
    scale = max(wide / width, tall / height)
    covering = (max(wide, round(width * scale)), max(tall, round(height * scale)))
    left, top = (covering[0] - wide) // 2, (covering[1] - tall) // 2
    return [*steps, Resize(covering, (left, top, left + wide, top + tall), Resampling.BICUBIC)]


def part_of_resized(image: Image, whole: tuple[int, int], box: Box) -> Image:
    """A part of an image that is resized bicubically.

    Args:
        image: any image.
        whole: (width, height) to which all of it is resized.
        box: which part of that is returned.
    """
    size = box[2] - box[0], box[3] - box[1]
    if not _is_strip(image.size, whole, size):
        return image.resize(whole, Resampling.BICUBIC).crop(box)
    # Only what is kept of a long strip is resized: the whole could take any amount of memory.
    steps = image.width / whole[0], image.height / whole[1]
    left, top, right, bottom = (side * steps[number % 2] for number, side in enumerate(box))
    return image.resize(size, Resampling.BICUBIC, (left, top, min(right, image.width), min(bottom, image.height)))


def _is_strip(size: tuple[int, int], whole: tuple[int, int], kept: tuple[int, int]) -> bool:
    """Whether an image of one size that is resized to another has far more pixels than are kept of it."""
    return whole[0] * whole[1] > max(size[0] * size[1], _LONG * kept[0] * kept[1])


def crop_boxes(
    sizes: Sequence[tuple[int, int]],
    random: SlotRandom,
    *,
    scale: tuple[float, float] = (0.8, 1.0),
    center: float = 1.0,
    stream: str = "crop",
) -> list[Box]:
    """One random square for each image, a pure function of the slots.

    Args:
        sizes: (width, height) of each of B images.
        random: B slots.
        scale: range of the side as a fraction of the short side, in (0, 1].
        center: the part of the free range, around its middle, from which offsets are drawn: 1 = all, 0 = the middle.
        stream: the name of the draws.

    Returns:
        B boxes.

    Raises:
        DataError: an argument is out of range, or there are not as many slots as images.
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
    """The box of an image, resized to `size` as `center_crop` does.

    Args:
        image: Any image.
        box: (left, upper, right, lower) in pixels, in it.
        size: Of the result in pixels, one side or (height, width).
    """
    return center_crop(image.crop(box), size)


def jitter_colors(images: Tensor, amount: float, random: SlotRandom, *, stream: str = "jitter") -> Tensor:
    """Multiply brightness, contrast and saturation of each image by random factors.

    Args:
        images: (B, 3, H, W) in [0, 1].
        amount: factors are uniform in [1 - amount, 1 + amount].
        random: B slots.
        stream: the name of the draws.

    Returns:
        (B, 3, H, W), clamped to [0, 1].

    Raises:
        FAEError: images are out of range.
    """
    require_images(images)
    factors = 1 + amount * (2 * random.uniform((3,), stream, images.device) - 1)
    brightness, contrast, saturation = factors.to(images.dtype)[..., None, None, None].unbind(1)
    images = images * brightness
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + contrast * (images - mean)
    grey = (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    return (grey + saturation * (images - grey)).clamp(0, 1)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images at another size: bicubic with antialiasing, as the backbones resize; clamped to [0, 1].

    Args:
        images: (B, 3, H, W) in [0, 1]; returned as they are where they have that size already.
        size: (height, width) in pixels.
    """
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)


def to_tensor(image: Image) -> Tensor:
    """An RGB image as (3, H, W), fp32 in [0, 1]. Raises DataError for another mode (`to_rgb` converts it).

    Args:
        image: Of mode RGB.
    """
    if image.mode != "RGB":
        raise DataError(
            f"a tensor is made of an RGB image, not of {image.mode}; convert it with fae_core.images.to_rgb"
        )
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.permute(2, 0, 1).contiguous().float().div_(255)


def to_uint8(images: Tensor) -> Tensor:
    """Floats in [0, 1] as uint8. Values outside are clamped.

    Values are rounded to the nearest level; truncation would darken by half a level.

    Args:
        images: Of any shape and floating type.

    Raises:
        FAEError: they are not floats, or a value is NaN.
    """
    if not images.is_floating_point():
        raise FAEError(f"images must be floats in [0, 1] to become uint8, got {images.dtype}")
    require_range(images, -math.inf, math.inf)
    return (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)


def as_height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size that is given as one side or as both.

    Args:
        size: in pixels.

    Raises:
        DataError: a side is no positive integer, or there are more than 2**27 pixels.
    """
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        raise DataError(f"an image size must be positive, one side or (height, width) in pixels, not {str(size)[:40]}")
    if sides[0] * sides[1] > MAX_PIXELS:
        raise DataError(f"an image of {sides[0]}x{sides[1]} pixels is too large; at most {MAX_PIXELS} are made")
    return sides[0], sides[1]
