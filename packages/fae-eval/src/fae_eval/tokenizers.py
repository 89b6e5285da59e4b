"""What a tokenizer can show besides latents, without knowing its class: features of images, features rebuilt from latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.processes import resolve_device
from fae_core.protocols import FeatureEncoder, encoder_of, require_decoder


def image_features(tokenizer: Any, images: Tensor) -> Tensor:
    """Tokens (B, N, D) of images (B, 3, H, W). Raises FAEError where the tokenizer has none."""
    encoder = encoder_of(tokenizer)
    if not isinstance(encoder, FeatureEncoder):
        raise FAEError(f"{type(tokenizer).__name__} gives latents but no features")
    return encoder.features(images)


def image_embedding(tokenizer: Any, features: Tensor) -> Tensor:
    """(B, D') that the encoder's pretrained head makes of features (B, N, D). Raises FAEError where it has none."""
    backbone = getattr(encoder_of(tokenizer), "backbone", None)
    if not hasattr(backbone, "embed"):
        raise FAEError(f"{type(tokenizer).__name__} has no backbone that pools features into one vector")
    return backbone.embed(own_scale(tokenizer, features))


def own_scale(tokenizer: Any, features: Tensor) -> Tensor:
    """Features on the backbone's own scale: without the encoder's normalisation."""
    norm = getattr(encoder_of(tokenizer), "feature_norm", None)
    return features if norm is None else norm.inverse(features)


def class_token(tokenizer: Any, images: Tensor) -> Tensor:
    """The pretrained network's class token (B, D) of images (B, 3, H, W). Raises FAEError where it has none."""
    backbone = getattr(encoder_of(tokenizer), "backbone", None)
    if not hasattr(backbone, "class_token"):
        raise FAEError(f"{type(tokenizer).__name__} has no backbone with a class token")
    return backbone.class_token(images)


def rebuilds_features(tokenizer: Any) -> bool:
    """Whether `features_of_latents` works: an FAE decodes latents to features first."""
    return hasattr(tokenizer, "encoder") and hasattr(tokenizer, "features")


def features_of_latents(tokenizer: Any, z: Tensor) -> Tensor:
    """Tokens (B, N, D) rebuilt from latents (B, C, h, w)."""
    return tokenizer.features(z)


def latent_tokens(z: Tensor) -> Tensor:
    """(B, C, h, w) as tokens (B, h*w, C), row by row."""
    return z.flatten(2).transpose(1, 2)


def grid_of(tokens: Tensor, height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of tokens (B, N, D) given the latent's grid: the same shape, perhaps finer or coarser."""
    count = tokens.shape[1]
    scale = (count / (height * width)) ** 0.5
    rows, columns = round(height * scale), round(width * scale)
    if rows * columns != count:
        raise FAEError(f"{count} tokens do not form a grid like the latent's {height}x{width}")
    return rows, columns


def device_of(model: Any) -> torch.device:
    """Where a model's weights are; the CPU where it has none."""
    parameters = getattr(model, "parameters", None)
    first = next(iter(parameters()), None) if callable(parameters) else None
    return first.device if first is not None else torch.device("cpu")


def load_image_tokenizer(source: Any, device: str | None = None, *, needs_decode: bool = False) -> Any:
    """A tokenizer from a path or hub id, or the object itself. Raises FAEError where it must decode and cannot.

    device: for one that is loaded; cuda where there is one. An object stays where it is.
    """
    if isinstance(source, (str, Path)):
        from fae_core import load_tokenizer

        tokenizer = load_tokenizer(source, device=resolve_device(device))
    else:
        tokenizer = source
    if needs_decode:
        require_decoder(tokenizer, source)
    return tokenizer
