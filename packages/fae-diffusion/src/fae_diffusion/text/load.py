"""The text encoder that a model's settings name, of either kind, and whether it is the one that was trained with."""

from __future__ import annotations

import torch

from fae_core.errors import InvalidFile
from fae_diffusion.text.config import DTYPES, TextEncoderConfig
from fae_diffusion.text.encoder import TextEncoder
from fae_diffusion.text.sd3 import SD3TextEncoder


def load_text_encoder(config: TextEncoderConfig, device: torch.device | str = "cpu") -> TextEncoder | SD3TextEncoder:
    """The text encoder that a config names.

    Args:
        config: kind, name, length, padding, dtype and, where a model was trained with it, fingerprint.
        device: of the encoder and the embeddings.

    Raises:
        InvalidFile: where it does not have the recorded fingerprint, and as the encoders do.
        MissingPackage: without what the encoder needs.
        FAEError: for a length that the encoder does not have.
    """
    dtype, length = getattr(torch, DTYPES[config.dtype]), config.max_length
    if config.kind == "sd3":
        encoder = SD3TextEncoder(config.name, max_length=length, t5=config.t5, device=device, dtype=dtype)
    else:
        encoder = TextEncoder(
            config.name, max_length=length, mask_padding=config.mask_padding, device=device, dtype=dtype
        )
    found = None if config.fingerprint is None else encoder.fingerprint()  # it reads all weights
    if found != config.fingerprint:
        raise InvalidFile(
            f"the text encoder {encoder.name} ({encoder.max_length} tokens, {encoder.dtype}) is not the one that the "
            f"model was trained on: its fingerprint is {found}, not {config.fingerprint}"
        )
    return encoder
