"""From images in [0, 1] to what a network was trained on: its size and its normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.layers import Fp32Buffers


class Preprocess(Fp32Buffers):
    """Antialiased bicubic resize to `size` (height, width), then (x - mean) / std per colour.

    forward: (B, 3, H, W) in [0, 1] of any size with the same aspect ratio -> (B, 3, *size). Values that the cubic overshoots
    beyond [0, 1] are clipped, as an 8-bit image would clip them. Raises FAEError where the aspect ratio differs, since
    resizing would then distort what the network sees: crop first, or build the backbone with a non-square image_size.
    """

    def __init__(self, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.size, self.statistics = size, {"mean": mean, "std": std}
        # Normalised in fp32 whatever dtype the network is cast to: the means have no exact half-precision value.
        self.register_tables(persistent=False)

    def tables(self) -> dict[str, Tensor]:
        return {n: torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for n, v in self.statistics.items()}

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise FAEError(
                f"images must be floats in [0, 1] of shape (B, 3, H, W), got {images.dtype} {tuple(images.shape)}"
            )
        height, width = images.shape[-2:]
        # Half a pixel of rounding is allowed, so that 255x170 may stand for 3:2.
        if abs(height * self.size[1] - width * self.size[0]) > max(self.size) / 2:
            raise FAEError(
                f"images are {height}x{width}, the backbone sees {self.size[0]}x{self.size[1]}: another aspect ratio; "
                f"crop the images or set the backbone's image_size"
            )
        if (height, width) != self.size:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True, align_corners=False)
            images = images.clamp(0.0, 1.0)
        return (images - self.mean) / self.std
