"""fae-encoder: any frozen vision encoder as a low-dimensional latent space. Importing it does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names
from fae_encoder._version import __version__

if TYPE_CHECKING:
    from fae_encoder.adapters import create_adapter as create_adapter
    from fae_encoder.backbones import Backbone as Backbone
    from fae_encoder.backbones import BackboneConfig as BackboneConfig
    from fae_encoder.backbones import create_backbone as create_backbone
    from fae_encoder.config import AdapterConfig as AdapterConfig
    from fae_encoder.config import FAEEncoderConfig as FAEEncoderConfig
    from fae_encoder.encoder import FAEEncoder as FAEEncoder
    from fae_encoder.feature_norm import FeatureNorm as FeatureNorm
    from fae_encoder.posterior import Posterior as Posterior

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names, "__version__"]
