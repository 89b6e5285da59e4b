"""What an extractor is. Images are uint8 (B, H, W, 3), or floats (B, 3, H, W) in [0, 1] that are rounded to uint8 first."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_core.images import to_uint8
from fae_core.images.check import require_range

ImageBatch = Tensor | np.ndarray
UINT8_RULE = "floats in [0, 1] are rounded to uint8 (never truncated)"


class FeatureExtractor(ABC):
    """One vector per image, and whatever else a protocol wants.

    name: goes into labels and records; dim: D; resize: how images reach the network's size, in words;
    fingerprint: hash of the weights; settings: in words, what else decides the numbers (the architecture, the normalisation).
    official_inception: only then a Frechet distance may be called FID.
    A subclass defines `outputs`; for a network of your own that is all there is to write.
    """

    name: str
    dim: int
    resize: str
    fingerprint: str
    settings: str = ""
    official_inception: bool = False

    @abstractmethod
    def outputs(self, images: ImageBatch) -> dict[str, Tensor]:
        """ "pool" (B, D) fp32, and where the network has them "spatial" (B, S) and "logits" (B, classes)."""

    def features(self, images: ImageBatch) -> Tensor:
        """(B, D) fp32."""
        return self.outputs(images)["pool"]


def as_uint8_nchw(images: ImageBatch, device: torch.device | str | None = None) -> Tensor:
    """Either layout as uint8 (B, 3, H, W). Raises FAEError where the shape or type is another, or a float leaves [0, 1]."""
    if isinstance(images, np.ndarray):
        try:  # torch takes neither views that run backwards nor texts and objects
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


def weights_fingerprint(module: nn.Module) -> str:
    """Hash of a network's weights and buffers, 16 hexadecimal digits."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]
