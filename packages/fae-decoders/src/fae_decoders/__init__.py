"""fae-decoders: the way back from latents to features and to images, how it is trained, and FAE, the whole tokenizer.

Importing it is light; torch is loaded when a name needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fae_decoders._version import __version__

if TYPE_CHECKING:
    from fae_decoders.baselines.conv_vae import ConvVAE as ConvVAE
    from fae_decoders.baselines.conv_vae import ConvVAEConfig as ConvVAEConfig
    from fae_decoders.diffusers_vae import DiffusersVAE as DiffusersVAE
    from fae_decoders.fae.any_pixel_decoder import load_pixel_decoder as load_pixel_decoder
    from fae_decoders.fae.fae import FAE as FAE
    from fae_decoders.fae.fae_decoder import FAEDecoder as FAEDecoder
    from fae_decoders.fae.feature_decoder import FeatureDecoder as FeatureDecoder
    from fae_decoders.fae.feature_decoder import FeatureDecoderConfig as FeatureDecoderConfig
    from fae_decoders.fae.feature_space import FeatureSpace as FeatureSpace
    from fae_decoders.fae.feature_space import FeatureSpaceMismatch as FeatureSpaceMismatch
    from fae_decoders.fae.pixel_decoder import PixelDecoder as PixelDecoder
    from fae_decoders.fae.pixel_decoder import PixelDecoderConfig as PixelDecoderConfig
    from fae_decoders.fae.rae_decoder import RAEDecoder as RAEDecoder
    from fae_decoders.fae.rae_decoder import RAEDecoderConfig as RAEDecoderConfig

_HOMES = {
    "ConvVAE": "fae_decoders.baselines.conv_vae",
    "ConvVAEConfig": "fae_decoders.baselines.conv_vae",
    "FAE": "fae_decoders.fae.fae",
    "FAEDecoder": "fae_decoders.fae.fae_decoder",
    "FeatureDecoder": "fae_decoders.fae.feature_decoder",
    "FeatureDecoderConfig": "fae_decoders.fae.feature_decoder",
    "FeatureSpace": "fae_decoders.fae.feature_space",
    "FeatureSpaceMismatch": "fae_decoders.fae.feature_space",
    "PixelDecoder": "fae_decoders.fae.pixel_decoder",
    "PixelDecoderConfig": "fae_decoders.fae.pixel_decoder",
    "RAEDecoder": "fae_decoders.fae.rae_decoder",
    "RAEDecoderConfig": "fae_decoders.fae.rae_decoder",
    "load_pixel_decoder": "fae_decoders.fae.any_pixel_decoder",
}

# Needs an extra, so it is not part of `__all__`.
_EXTRA_HOMES = {"DiffusersVAE": "fae_decoders.diffusers_vae"}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name) or _EXTRA_HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'fae_decoders' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
