"""What tokenizers take as images beside float tensors: Pillow images, arrays, uint8 tensors, and lists of these.

- A float tensor (B, 3, H, W) in [0, 1] is taken as it is.
- A uint8 tensor (B, 3, H, W) or (3, H, W) has values of 0 to 255.
- A numpy array has its channels last, (N, H, W, 3) or (H, W, 3): uint8, or floats in [0, 1].
- A Pillow image of any mode and size is read as `fae encode` reads its file: turned upright, made RGB, and its centre
  cropped to the size that the tokenizer reads. The values are the same to the bit.
- A list or tuple holds single images of these kinds, floats as (3, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fae_core.errors import DataError
from fae_core.images.check import require_image_batch, require_range
from fae_core.images.decode import upright_rgb
from fae_core.images.transform import center_crop, to_tensor

AnyImage = Tensor | np.ndarray | Image.Image
AnyImages = AnyImage | Sequence[AnyImage]


@dataclass(frozen=True)
class ImageTransform:
    """One picture to the tensor that a tokenizer's `encode` takes: the `transform` of a data set.

    Args:
        size: (height, width) of the centre that is cut out, as `fae encode` does.
        low: the value of black: 0, or -1 for diffusers' range.
    """

    size: tuple[int, int]
    low: float = 0.0

    def __call__(self, picture: Image.Image | np.ndarray) -> Tensor:
        """(3, H, W), fp32 in [low, 1], of a Pillow image or a uint8 array (H, W, 3).

        Raises:
            DataError: the picture cannot be read, or is of another kind.
        """
        if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3:
            with suppress(TypeError):  # of a number of channels that no image has
                picture = Image.fromarray(picture)
        if not isinstance(picture, Image.Image):
            raise DataError(f"a picture is a Pillow image or a uint8 array (H, W, 3), not {_named(picture)}")
        cropped = to_tensor(center_crop(upright_rgb(picture), self.size))
        return cropped if self.low == 0 else cropped * (1 - self.low) + self.low


def image_batch(
    images: AnyImages, size: tuple[int, int] | None, device: torch.device | str | None = None, *, low: float = 0.0
) -> Tensor:
    """Images of any accepted kind as one batch of floats. Values of float tensors are not checked where low is 0.

    Args:
        images: as the module's docstring says.
        size: (height, width) to which Pillow images are cropped; None keeps their own.
        device: where images that are no tensors go.
        low: the value of black in floats; such values are brought to [0, 1].

    Returns:
        (B, 3, H, W), in [0, 1].

    Raises:
        FAEError: images of another kind, shape or range, or of different sizes.
    """
    if isinstance(images, (list, tuple)):
        if not images:
            raise DataError("a list of images needs at least one")
        batches = [_single(image, size, device, low) for image in images]
        sizes = sorted({tuple(batch.shape[2:]) for batch in batches})
        if len(sizes) > 1:
            raise DataError(f"images of different sizes make no batch: {sizes[0]} and {sizes[1]}; crop them first")
        return torch.cat(batches)
    if isinstance(images, Image.Image):
        return _single(images, size, device, low)
    if isinstance(images, np.ndarray):
        images = _of_array(images, device)
    if isinstance(images, Tensor) and images.dtype == torch.uint8:
        images = images[None] if images.ndim == 3 else images
        return require_image_batch(images.float().div_(255))
    batch = require_image_batch(images)
    if low != 0:
        require_range(batch, low)
        batch = (batch - low) / (1 - low)
    return batch


def _single(image: Any, size: tuple[int, int] | None, device: torch.device | str | None, low: float) -> Tensor:
    """One image as a batch (1, 3, H, W)."""
    if isinstance(image, Image.Image):
        rgb = upright_rgb(image)
        return to_tensor(rgb if size is None else center_crop(rgb, size))[None].to(device)
    if isinstance(image, (Tensor, np.ndarray)) and image.ndim == 3:
        return image_batch(image[None], size, device, low=low)
    raise DataError(
        f"a list of images holds Pillow images, arrays (H, W, 3) and tensors (3, H, W), not {_named(image)}"
    )


def _named(image: Any) -> str:
    """What an image is, for messages."""
    shape = getattr(image, "shape", None)
    return f"a {type(image).__name__}" + ("" if shape is None else f" of shape {tuple(shape)} and {image.dtype}")


def _of_array(array: np.ndarray, device: torch.device | str | None) -> Tensor:
    """An array with its channels last as a tensor with its channels first."""
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[3] != 3 or not (array.dtype == np.uint8 or array.dtype.kind == "f"):
        hint = "; its channels come first: transpose them" if 3 in array.shape[:2] else ""
        raise DataError(
            "a numpy array of images is uint8 or floats in [0, 1] of shape (N, H, W, 3) or (H, W, 3), got "
            f"{array.dtype} {array.shape}{hint}"
        )
    return torch.from_numpy(np.array(array)).permute(0, 3, 1, 2).to(device)  # a copy: Pillow's arrays are read-only
