"""Images through a tokenizer and back, as every measurement of reconstructions compares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fae_core.display import fields_html, fields_repr
from fae_core.errors import FAEError
from fae_core.images import ImageSource, load_at_sizes, to_uint8
from fae_core.protocols import AdaptingEncoder, encoder_of, read_size


@dataclass(frozen=True)
class Reconstructed:
    """Some images and what a tokenizer makes of them.

    Attributes:
        read: the images as they are read for the tokenizer, (B, 3, H, W) in [0, 1].
        original: the images at the size that it decodes to, whatever size a backbone reads.
        decoded: its reconstructions at that size, in [0, 1], rounded to the 256 levels of a picture on disk.
        latents: normalised, (B, C, h, w).
        features: of an encoder that makes its latents of them, (B, N, D); None for others.
    """

    read: Tensor
    original: Tensor
    decoded: Tensor
    latents: Tensor
    features: Tensor | None

    __repr__, _repr_html_ = fields_repr, fields_html


@torch.no_grad()
def reconstruct(tokenizer: Any, source: ImageSource, rows: Sequence[int], device: str | torch.device) -> Reconstructed:
    """Encode and decode images of a source.

    Args:
        tokenizer: has `encode`, `decode` and `spec`.
        source: the images; they are centre-cropped to the tokenizer's shape.
        rows: which of them.
        device: where the tokenizer is.

    Raises:
        FAEError: the reconstructions are not finite.
    """
    pair = load_at_sizes(source, rows, read_size(tokenizer), tokenizer.spec.image_shape)
    read, original = (images.to(device) for images in pair)
    encoder, features = encoder_of(tokenizer), None
    if isinstance(encoder, AdaptingEncoder):  # one pass through the backbone for both
        features = encoder.features(read)
        latents = tokenizer.spec.normalize(encoder.adapt(features).mode())
    else:
        latents = tokenizer.encode(read)
    decoded = tokenizer.decode(latents)
    if not bool(decoded.isfinite().all()):
        raise FAEError(
            f"{type(tokenizer).__name__} paints numbers that are not finite (images {rows[0]} to {rows[-1]})"
        )
    # Rounding also clamps, as `fae sample` does: decoders may leave [0, 1].
    decoded = to_uint8(decoded).float() / 255
    return Reconstructed(read, original, decoded, latents, features)
