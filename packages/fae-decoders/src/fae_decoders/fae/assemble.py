"""A tokenizer made of parts that were trained apart: no stage II, or no feature decoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fae_core.errors import FAEError
from fae_core.latent_store import LatentStore
from fae_decoders.fae.any_pixel_decoder import load_pixel_decoder
from fae_decoders.fae.fae import FAE
from fae_decoders.fae.stored import require_identity, statistics_not_needed

if TYPE_CHECKING:
    from fae_encoder import FAEEncoder


def assemble(autoencoder: str | Path, pixel: str | Path) -> FAE:
    """The paper's FAE before stage II: the parts of stage Ia with the pixel decoder of stage Ib as it is.

    Args:
        autoencoder: Run or folder of stage Ia, with encoder and feature decoder.
        pixel: Run or folder of the pixel decoder.

    Raises:
        FeatureSpaceMismatch: They were trained on different features.
        FAEError: The image sizes differ.
    """
    fae = FAE.from_pretrained(autoencoder)
    return FAE(fae.encoder, fae.feature_decoder, load_pixel_decoder(pixel))


def assemble_direct(encoder: FAEEncoder, pixel: str | Path, *, statistics: str | Path | None = None) -> FAE:
    """A tokenizer whose latents are the backbone's features ("direct predict", RAE), with a pixel decoder of stage Ib.

    Args:
        encoder: Fresh, with an identity adapter; it becomes part of the tokenizer.
        pixel: Run or folder of the pixel decoder.
        statistics: A latent store of these features, whose per-channel mean and std then normalise the latents. Not
            needed where the pixel decoder was trained on standardised features: those are the latents then.

    Raises:
        FAEError: The encoder has an adapter to train, or `statistics` are not needed or of other features.
    """
    decoder = load_pixel_decoder(pixel)
    require_identity(encoder.config)
    known = decoder.config.features
    if known is not None and known.mean is not None and known.std is not None:
        if statistics is not None:
            raise statistics_not_needed(pixel)
        mean, std = (torch.tensor(values, device="cpu") for values in (known.mean, known.std))
        encoder.feature_norm.set_statistics(mean, std)
        encoder.with_statistics([0.0] * encoder.spec.channels, [1.0] * encoder.spec.channels)
    elif statistics is not None:
        store = LatentStore(statistics)
        if store.spec.fingerprint != encoder.features_fingerprint():
            raise FAEError(
                f"{statistics} does not hold the features of {encoder.backbone.name} as the encoder takes them"
            )
        encoder.with_statistics(store.index.mean, store.index.std)
    encoder.stamp()
    return FAE(encoder.eval(), None, decoder)
