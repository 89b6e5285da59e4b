"""fae-encoder: any frozen vision encoder as a low-dimensional latent space. Importing it does not import torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fae_encoder._version import __version__

if TYPE_CHECKING:
    from fae_encoder.adapters import AdapterConfig as AdapterConfig
    from fae_encoder.adapters import create_adapter as create_adapter
    from fae_encoder.backbones import Backbone as Backbone
    from fae_encoder.backbones import BackboneConfig as BackboneConfig
    from fae_encoder.backbones import create_backbone as create_backbone
    from fae_encoder.encoder import FAEEncoder as FAEEncoder
    from fae_encoder.encoder import FAEEncoderConfig as FAEEncoderConfig
    from fae_encoder.feature_norm import FeatureNorm as FeatureNorm
    from fae_encoder.posterior import Posterior as Posterior

_HOMES = {
    "AdapterConfig": "fae_encoder.adapters",
    "Backbone": "fae_encoder.backbones",
    "BackboneConfig": "fae_encoder.backbones",
    "FAEEncoder": "fae_encoder.encoder",
    "FAEEncoderConfig": "fae_encoder.encoder",
    "FeatureNorm": "fae_encoder.feature_norm",
    "Posterior": "fae_encoder.posterior",
    "create_adapter": "fae_encoder.adapters",
    "create_backbone": "fae_encoder.backbones",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fae_encoder' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
