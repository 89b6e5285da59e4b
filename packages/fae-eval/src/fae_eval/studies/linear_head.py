"""DINOv2's published linear classifiers, which read the class token and the mean of patches; their preprocessing.

The paper (section 5.4) gives rebuilt features to the existing layer, with DINOv2's preprocessing. It does not say where
the class token comes from, which an FAE neither encodes nor rebuilds: that is a choice here (`CLASS_TOKENS`), and it
goes into the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from fae_core.errors import FAEError, InvalidFile
from fae_core.images import ImageSource, to_tensor
from fae_core.images.transform import part_of_resized
from fae_core.models.foreign import read_state_dict
from fae_core.protocols import encoder_of
from fae_eval.tokenizers import class_token

CLASS_TOKENS: dict[str, str] = {
    "original": "the network's own class token of the original image, which did not pass through the latents",
    "mean": "the mean of the patches in place of the class token, so that nothing bypasses the latents",
}


class LinearHead:
    """logits = weight [class token, mean of patches] + bias, as published for DINOv2 (1000 x 2D, one layer).

    Args:
        path: .pth or .safetensors with "weight" and "bias".

    Raises:
        InvalidFile: where the file holds something else.
    """

    def __init__(self, path: str | Path) -> None:
        state = read_state_dict(path)
        weight, bias = (
            next((t for n, t in state.items() if n.split(".")[-1] == name), None) for name in ("weight", "bias")
        )
        if len(state) != 2 or weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise InvalidFile(f"{path} is not a linear classifier: it should hold one weight and one bias")
        self.path, self.weight, self.bias = str(path), weight.float(), bias.float()

    def __call__(self, features: Tensor, token: Tensor | None) -> Tensor:
        """Logits (B, classes).

        Args:
            features: (B, N, D), on the backbone's own scale.
            token: the class token, (B, D); None takes the mean of the patches.

        Raises:
            FAEError: where the head is for another width.
        """
        mean = features.float().mean(1)
        both = torch.cat([mean if token is None else token.float(), mean], 1)
        if both.shape[1] != self.weight.shape[1]:
            raise FAEError(
                f"{self.path} reads {self.weight.shape[1]} numbers; class token and mean of patches are "
                f"{both.shape[1]} (only the one-layer heads can be used)"
            )
        return both @ self.weight.to(both.device).T + self.bias.to(both.device)

    def token_for(self, choice: str, model: Any, images: Tensor) -> Tensor | None:
        """The class token for `__call__`, (B, D); None for the mean of the patches.

        Args:
            choice: of CLASS_TOKENS.
            model: the tokenizer.
            images: (B, 3, H, W).

        Raises:
            FAEError: for another choice, and for a backbone that leaves the final norm out.
        """
        if choice not in CLASS_TOKENS:
            raise FAEError(f"the class token is one of {', '.join(CLASS_TOKENS)}, not {choice!r}")
        if getattr(getattr(encoder_of(model), "backbone", None), "final_norm", True) is False:
            raise FAEError("a DINOv2 head reads tokens behind the final norm; this encoder's backbone leaves it out")
        return class_token(model, images) if choice == "original" else None


def dinov2_size(model: Any) -> int:
    """Side of the images that the tokenizer's backbone reads, in pixels. Raises FAEError where they are not square."""
    sides = set(getattr(getattr(encoder_of(model), "backbone", None), "image_size", model.spec.image_shape))
    if len(sides) != 1:
        raise FAEError("DINOv2's preprocessing is for square images")
    return sides.pop()


def dinov2_batch(source: ImageSource, indices: Sequence[int], size: int) -> Tensor:
    """Images of a source as DINOv2 prepares them for tests, (B, 3, size, size) in [0, 1]; see `dinov2_crop`."""
    return torch.stack([to_tensor(dinov2_crop(source.read(index), size)) for index in indices])


def dinov2_crop(image: Image, size: int) -> Image:
    """DINOv2's test preprocessing: the shorter side to 256/224 of `size`, bicubic; then the centre, `size` a side."""
    short = round(size * 256 / 224)
    width, height = (
        (short, int(short * image.height / image.width))
        if image.width <= image.height
        else (int(short * image.width / image.height), short)
    )
    left, top = round((width - size) / 2), round((height - size) / 2)
    return part_of_resized(image, (width, height), (left, top, left + size, top + size))
