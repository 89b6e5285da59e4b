"""fae-decoders: the way back from latents to features and to images, how it is trained, and FAE, the whole tokenizer.

Importing it is light; torch is loaded when a name needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names
from fae_decoders._version import __version__

if TYPE_CHECKING:
    from fae_decoders.baselines.config import ConvVAEConfig as ConvVAEConfig
    from fae_decoders.baselines.conv_vae import ConvVAE as ConvVAE
    from fae_decoders.diffusers_vae import DiffusersVAE as DiffusersVAE
    from fae_decoders.fae.any_pixel_decoder import load_pixel_decoder as load_pixel_decoder
    from fae_decoders.fae.config import FeatureDecoderConfig as FeatureDecoderConfig
    from fae_decoders.fae.config import PixelDecoderConfig as PixelDecoderConfig
    from fae_decoders.fae.config import RAEDecoderConfig as RAEDecoderConfig
    from fae_decoders.fae.fae import FAE as FAE
    from fae_decoders.fae.fae_decoder import FAEDecoder as FAEDecoder
    from fae_decoders.fae.feature_decoder import FeatureDecoder as FeatureDecoder
    from fae_decoders.fae.feature_space import FeatureSpace as FeatureSpace
    from fae_decoders.fae.feature_space import FeatureSpaceMismatch as FeatureSpaceMismatch
    from fae_decoders.fae.pixel_decoder import PixelDecoder as PixelDecoder
    from fae_decoders.fae.rae_decoder import RAEDecoder as RAEDecoder

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*(name for name in _names if name != "DiffusersVAE"), "__version__"]  # which needs an extra
