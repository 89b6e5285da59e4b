"""Pictures of visitors, uint8 (H, W, 3): decoded by the readers' rules, and cut as the tokenizer reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fae_core.errors import DataError
from fae_core.images import center_crop, decode_image, to_uint8
from fae_core.protocols import read_size

MOST_BYTES = 32 * 2**20  # of an uploaded file


def read_picture(source: bytes | str | Path, size: tuple[int, int], name: str | None = None) -> np.ndarray:
    """A picture in a file as `fae encode` reads it: turned upright, made RGB, its centre cropped.

    Args:
        source: The file's path or its bytes.
        size: (height, width) of the result.
        name: What errors call it.

    Returns:
        (height, width, 3) uint8.

    Raises:
        DataError: The file is larger than `MOST_BYTES`, or is no image that the readers of data sets would take.
    """
    length = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if length > MOST_BYTES:
        raise DataError(f"{name or 'the picture'} has {length} bytes; at most {MOST_BYTES} are taken")
    return np.asarray(center_crop(decode_image(source, name or "the picture"), size))


def as_batch(pictures: list[np.ndarray], device: str | torch.device = "cpu") -> Tensor:
    """Pictures of one size as the tensor (B, 3, H, W) in [0, 1] that a tokenizer takes."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(255).to(device)


def as_pictures(images: Tensor) -> list[np.ndarray]:
    """Images (B, 3, H, W) in [0, 1] as pictures."""
    return list(to_uint8(images).permute(0, 2, 3, 1).cpu().numpy())


def fitted(picture: np.ndarray, tokenizer: Any) -> np.ndarray:
    """A picture at the size that a tokenizer reads, such as one that it has painted smaller."""
    from PIL import Image

    size = read_size(tokenizer)
    return picture if picture.shape[:2] == size else np.asarray(center_crop(Image.fromarray(picture), size))
