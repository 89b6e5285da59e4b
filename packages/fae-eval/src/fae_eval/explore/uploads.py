"""Pictures of visitors: decoded by the readers' rules, and cut to the sizes of the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, fromarray
from torch import Tensor

from fae_core.errors import DataError
from fae_core.images import decode_image, to_uint8
from fae_core.images.transform import crop_pair
from fae_core.protocols import read_size

MOST_BYTES = 32 * 2**20  # of an uploaded file


@dataclass(frozen=True)
class Picture:
    """A picture at the sizes of a tokenizer.

    Attributes:
        read: uint8 (H, W, 3), at the size that it reads.
        original: uint8 (h, w, 3), at the size that it paints.
    """

    read: np.ndarray
    original: np.ndarray


def cut(image: Image, tokenizer: Any) -> Picture:
    """The centre of an image, as `fae reconstruct` takes it.

    Args:
        image: RGB.
        tokenizer: Whose sizes count.
    """
    sizes = crop_pair(image, read_size(tokenizer), tokenizer.spec.image_shape)
    return Picture(*(as_pictures(pixels[None])[0] for pixels in sizes))


def read_picture(source: bytes | str | Path, tokenizer: Any, name: str | None = None) -> Picture:
    """A picture in a file as `fae encode` reads it: turned upright, made RGB, its centre cropped.

    Args:
        source: The file's path or its bytes.
        tokenizer: Whose sizes count.
        name: What errors call it.

    Raises:
        DataError: The file is larger than `MOST_BYTES`, or is no image that the readers of data sets would take.
    """
    length = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if length > MOST_BYTES:
        raise DataError(f"{name or 'the picture'} has {length} bytes; at most {MOST_BYTES} are taken")
    return cut(decode_image(source, name or "the picture"), tokenizer)


def as_batch(pictures: list[np.ndarray], device: str | torch.device = "cpu") -> Tensor:
    """Pictures of one size as the tensor (B, 3, H, W) in [0, 1] that a tokenizer takes."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(255).to(device)


def as_pictures(images: Tensor) -> list[np.ndarray]:
    """Images (B, 3, H, W) in [0, 1] as pictures."""
    return list(to_uint8(images).permute(0, 2, 3, 1).cpu().numpy())


def drawn_picture(picture: np.ndarray, tokenizer: Any) -> Picture:
    """A picture that was drawn, uint8 (H, W, 3), at the sizes of a tokenizer."""
    return cut(fromarray(picture), tokenizer)
