"""Frozen vision encoders from timm and transformers under one interface: images in [0, 1] to patch features (B, N, D).

Reading order: config, preprocess, backbone (what callers hold), coverage (that the network sees every pixel),
timm_network and transformers_network (how features are taken from a library's model), hf_processor (how
transformers prepares an image), heads (the rest of a network, to logits), weights and efficientnet_lite (where the
weights come from).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names

if TYPE_CHECKING:
    from fae_encoder.backbones.backbone import Backbone as Backbone
    from fae_encoder.backbones.config import BackboneConfig as BackboneConfig
    from fae_encoder.backbones.create import build_backbone as build_backbone
    from fae_encoder.backbones.create import create_backbone as create_backbone

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names]
