"""Preprocess: images in [0, 1] to the size and normalisation that a network was trained with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.images import image_batch
from fae_core.images.check import require_range
from fae_core.layers import Fp32Buffers
from fae_encoder.backbones.config import Interpolation


def same_aspect(image: tuple[int, int], seen: tuple[int, int]) -> bool:
    """Whether images may be resized from one size to another without distortion.

    Half a pixel of rounding is allowed, so that 255x170 counts as 3:2.

    Args:
        image: (height, width) of the image.
        seen: (height, width) after the resize.
    """
    return abs(image[0] * seen[1] - image[1] * seen[0]) <= max(seen) / 2


class Preprocess(Fp32Buffers):
    """Antialiased resize to `size`, then (x - mean) / std per colour.

    A bicubic filter can overshoot [0, 1]; such values are clipped, as an 8-bit image would clip them. "bicubic-plain"
    is neither antialiased nor clipped, as RAE's own code resizes.

    Args:
        size: (height, width) of the result.
        mean: per colour, of images in [0, 1].
        std: per colour, positive.
        interpolation: filter of the resize.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        interpolation: Interpolation = "bicubic",
    ) -> None:
        super().__init__()
        self.size, self.interpolation, self.statistics = size, interpolation, {"mean": mean, "std": std}
        self.distorted: tuple[int, int] | None = None  # images of this size are resized whatever their aspect ratio is
        # Normalised in fp32 whatever dtype the network is cast to: the means have no exact half-precision value.
        self.register_tables(persistent=False)

    def tables(self) -> dict[str, Tensor]:
        """`mean` and `std`, (3, 1, 1) each."""
        return {n: torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for n, v in self.statistics.items()}

    def forward(self, images: Tensor, *, check: bool = True) -> Tensor:
        """Images as the network expects them.

        Args:
            images: (B, 3, H, W) in [0, 1], of any size with the aspect ratio of `size`, of any floating type; or what
                else `fae_core.images.image_batch` takes.
            check: whether to check the range; off for decoded images, which may leave it slightly.

        Returns:
            (B, 3, *size), fp32.

        Raises:
            FAEError: for another shape or range (fae_core/images/check.py states the exceptions), or another aspect
                ratio, which a resize would distort: crop first, or give the backbone a non-square image_size.
        """
        images = image_batch(images, self.size, self.mean.device)
        if images.device != self.mean.device:
            raise FAEError(f"images are on {images.device}, the network is on {self.mean.device}")
        if check:
            require_range(images)
        height, width = images.shape[-2:]
        if (height, width) != self.distorted and not same_aspect((height, width), self.size):
            raise FAEError(
                f"images are {height}x{width}, the backbone sees {self.size[0]}x{self.size[1]}: another aspect ratio; "
                f"crop the images or set the backbone's image_size"
            )
        images = images.float()
        if (height, width) != self.size:
            mode, _, plain = self.interpolation.partition("-")
            images = F.interpolate(images, self.size, mode=mode, antialias=not plain, align_corners=False)
            images = images if plain else images.clamp(0.0, 1.0)
        return (images - self.mean) / self.std


def usual_colours(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the images that timm gives to a model, by timm's name of it."""
    import timm

    configuration = timm.get_pretrained_cfg(name)
    assert configuration is not None  # the model has been built
    return tuple(configuration.mean), tuple(configuration.std)
