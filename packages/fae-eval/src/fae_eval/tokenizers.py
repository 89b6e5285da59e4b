"""Features of images and features rebuilt from latents, of any tokenizer that has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.processes import resolve_device
from fae_core.protocols import FeatureEncoder, encoder_of, require_decoder


def image_features(tokenizer: Any, images: Tensor) -> Tensor:
    """Features (B, N, D) of images (B, 3, H, W). Raises FAEError where the tokenizer has none."""
    encoder = encoder_of(tokenizer)
    if not isinstance(encoder, FeatureEncoder):
        raise FAEError(f"{type(tokenizer).__name__} gives latents but no features")
    return encoder.features(images)


def image_embedding(tokenizer: Any, features: Tensor) -> Tensor:
    """Vectors (B, D') that the encoder's pretrained head makes of features (B, N, D).

    Raises:
        FAEError: where the encoder has no such head.
    """
    backbone = getattr(encoder_of(tokenizer), "backbone", None)
    if backbone is None or not hasattr(backbone, "embed"):
        raise FAEError(f"{type(tokenizer).__name__} has no backbone that pools features into one vector")
    return backbone.embed(own_scale(tokenizer, features))


def own_scale(tokenizer: Any, features: Tensor) -> Tensor:
    """Features (B, N, D) on the backbone's own scale: without the encoder's normalisation."""
    norm = getattr(encoder_of(tokenizer), "feature_norm", None)
    return features if norm is None else norm.inverse(features)


def class_token(tokenizer: Any, images: Tensor) -> Tensor:
    """The pretrained network's class token (B, D) of images (B, 3, H, W). Raises FAEError where it has none."""
    backbone = getattr(encoder_of(tokenizer), "backbone", None)
    if backbone is None or not hasattr(backbone, "class_token"):
        raise FAEError(f"{type(tokenizer).__name__} has no backbone with a class token")
    return backbone.class_token(images)


def rebuilds_features(tokenizer: Any) -> bool:
    """Whether the tokenizer decodes latents to features first, as an FAE does, so that `features_of_latents` works."""
    return hasattr(tokenizer, "encoder") and hasattr(tokenizer, "features")


def features_of_latents(tokenizer: Any, z: Tensor) -> Tensor:
    """Features (B, N, D) rebuilt from latents (B, C, h, w)."""
    return tokenizer.features(z)


def latent_tokens(z: Tensor) -> Tensor:
    """Latents (B, C, h, w) as tokens (B, h*w, C), row by row."""
    return z.flatten(2).transpose(1, 2)


def grid_of(tokens: Tensor, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tokens (B, N, D): a grid of the latent's proportions, perhaps finer or coarser.

    Args:
        tokens: (B, N, D).
        height: rows of the latent.
        width: columns of the latent.

    Raises:
        FAEError: where N tokens form no such grid.
    """
    count = tokens.shape[1]
    scale = (count / (height * width)) ** 0.5
    rows, columns = round(height * scale), round(width * scale)
    if rows * columns != count:
        raise FAEError(f"{count} tokens do not form a grid like the latent's {height}x{width}")
    return rows, columns


def name_of(source: object) -> str:
    """What a record calls a tokenizer or generator: its path or hub id, or the class of an object."""
    return str(source) if isinstance(source, (str, Path)) else type(source).__name__


def device_of(model: Any) -> torch.device:
    """Where a model's weights are; the CPU where it has none."""
    parameters: Callable[[], Iterable[Tensor]] | None = getattr(model, "parameters", None)
    first = next(iter(parameters()), None) if callable(parameters) else None
    return first.device if first is not None else torch.device("cpu")


def load_image_tokenizer(source: Any, device: str | None = None, *, needs_decode: bool = False) -> Any:
    """A tokenizer from a path or hub id, or the object itself.

    Args:
        source: run folder, model folder or hub id, or a tokenizer.
        device: for one that is loaded; cuda where there is one. An object stays where it is.
        needs_decode: whether it has to turn latents into images.

    Raises:
        FAEError: where it has to decode and cannot.
    """
    if isinstance(source, (str, Path)):
        from fae_core import load_tokenizer

        tokenizer = load_tokenizer(source, device=resolve_device(device))
    else:
        tokenizer = source
    if needs_decode:
        require_decoder(tokenizer, source)
    return tokenizer
