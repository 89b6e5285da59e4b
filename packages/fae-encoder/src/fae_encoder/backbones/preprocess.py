"""From images in [0, 1] to what a network was trained on: its size and its normalisation."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.images.check import require_image_batch, require_range
from fae_core.layers import Fp32Buffers

Interpolation = Literal["bicubic", "bilinear"]


def same_aspect(image: tuple[int, int], seen: tuple[int, int]) -> bool:
    """Whether images of one (height, width) may be resized to another: half a pixel of rounding is allowed, so that 255x170 may
    stand for 3:2."""
    return abs(image[0] * seen[1] - image[1] * seen[0]) <= max(seen) / 2


class Preprocess(Fp32Buffers):
    """Antialiased resize to `size` (height, width), then (x - mean) / std per colour.

    forward: (B, 3, H, W) in [0, 1] of any size with the same aspect ratio and any floating type -> (B, 3, *size), fp32. Values
    that a cubic overshoots beyond [0, 1] are clipped, as an 8-bit image would clip them. Raises FAEError for anything else: for
    another range (see fae_core/images/check.py for the cost, and for where it is not looked at), and where the aspect ratio
    differs, since resizing would then distort what the network sees: crop first, or build the backbone with a non-square
    image_size.
    """

    def __init__(
        self,
        size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        interpolation: Interpolation = "bicubic",
    ) -> None:
        super().__init__()
        self.size, self.interpolation, self.statistics = size, interpolation, {"mean": mean, "std": std}
        # Normalised in fp32 whatever dtype the network is cast to: the means have no exact half-precision value.
        self.register_tables(persistent=False)

    def tables(self) -> dict[str, Tensor]:
        return {n: torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for n, v in self.statistics.items()}

    def forward(self, images: Tensor, *, check: bool = True) -> Tensor:
        """check: look at the range; off for images that a decoder paints, which may leave it a little."""
        require_image_batch(images)
        if images.device != self.mean.device:
            raise FAEError(f"images are on {images.device}, the network is on {self.mean.device}")
        if check:
            require_range(images)
        height, width = images.shape[-2:]
        if not same_aspect((height, width), self.size):
            raise FAEError(
                f"images are {height}x{width}, the backbone sees {self.size[0]}x{self.size[1]}: another aspect ratio; "
                f"crop the images or set the backbone's image_size"
            )
        images = images.float()
        if (height, width) != self.size:
            images = F.interpolate(images, self.size, mode=self.interpolation, antialias=True, align_corners=False)
            images = images.clamp(0.0, 1.0)
        return (images - self.mean) / self.std


def usual_colours(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """mean and std of the images that timm feeds a model."""
    import timm

    configuration = timm.get_pretrained_cfg(name)
    return tuple(configuration.mean), tuple(configuration.std)
