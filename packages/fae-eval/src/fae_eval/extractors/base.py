"""The interface of extractors.

Images are uint8 (B, H, W, 3), or floats (B, 3, H, W) in [0, 1] that are rounded to uint8 first.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_core.images import to_uint8
from fae_core.images.check import require_range

ImageBatch = Tensor | np.ndarray
UINT8_RULE = "floats in [0, 1] are rounded to uint8 (never truncated)"


class FeatureExtractor(ABC):
    """A network that gives one vector per image, and whatever else a protocol needs. A subclass defines `outputs`.

    Attributes:
        name: for labels and records.
        dim: D, the length of the vector.
        resize: how images reach the network's size, in words.
        fingerprint: hash of the weights.
        settings: what else decides the numbers (architecture, normalisation), in words.
        official_inception: whether a Frechet distance may be called FID.
    """

    name: str
    dim: int
    resize: str
    fingerprint: str
    settings: str = ""
    official_inception: bool = False

    @abstractmethod
    def outputs(self, images: ImageBatch) -> dict[str, Tensor]:
        """Outputs for images: "pool" (B, D) fp32, and where there are any "spatial" (B, S) and "logits" (B, K).

        Args:
            images: uint8 (B, H, W, 3), or floats (B, 3, H, W) in [0, 1], which are rounded to uint8; a tensor or an
                array.
        """

    def features(self, images: ImageBatch) -> Tensor:
        """The vectors alone, (B, D) fp32.

        Args:
            images: As `outputs` takes them.
        """
        return self.outputs(images)["pool"]


def as_uint8_nchw(images: ImageBatch, device: torch.device | str | None = None) -> Tensor:
    """Either layout of images as uint8 (B, 3, H, W), moved to `device`.

    Raises:
        FAEError: where shape or type is another, or a float is outside of [0, 1].
    """
    if isinstance(images, np.ndarray):
        try:  # torch takes neither negative strides nor texts and objects
            images = torch.from_numpy(np.ascontiguousarray(images) if images.flags.writeable else images.copy())
        except (TypeError, ValueError) as error:
            raise FAEError(f"a {type(images).__name__} holds no images: {' '.join(str(error).split())[:100]}") from None
    image_axes = isinstance(images, Tensor) and images.ndim == 4
    if image_axes and images.dtype == torch.uint8 and images.shape[-1] == 3:
        return images.to(device).permute(0, 3, 1, 2)
    if image_axes and images.is_floating_point() and images.shape[1] == 3:
        images = images.to(device)
        require_range(images)
        return to_uint8(images)
    found = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
    raise FAEError(f"expected uint8 (B, H, W, 3) or floats (B, 3, H, W) in [0, 1], got {found}")


def squash(images: ImageBatch, size: tuple[int, int], device: torch.device | str | None = None) -> Tensor:
    """Either layout of images as floats (B, 3, h, w) in [0, 255], scaled without keeping their proportions.

    Args:
        images: uint8 (B, H, W, 3), or floats (B, 3, H, W) in [0, 1].
        size: (h, w); others are scaled to it by antialiased bicubic interpolation.
        device: where they go first; None leaves them.
    """
    x = as_uint8_nchw(images, device).float()
    if tuple(x.shape[-2:]) != tuple(size):
        x = F.interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 255)
    return x


def weights_fingerprint(module: nn.Module) -> str:
    """A hash of a network's weights and buffers, 16 hexadecimal digits."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]
