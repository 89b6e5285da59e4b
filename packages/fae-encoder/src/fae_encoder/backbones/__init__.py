"""Frozen vision encoders from timm and transformers under one interface: images in [0, 1] to patch features (B, N, D).

Reading order: config, preprocess, backbone (what callers hold), coverage (that the network sees every pixel),
timm_network and transformers_network (how features are taken from a library's model), hf_processor (how
transformers prepares an image), heads (the rest of a network, to logits), weights and efficientnet_lite (where the
weights come from).
"""

from fae_encoder.backbones.backbone import Backbone
from fae_encoder.backbones.config import BackboneConfig
from fae_encoder.backbones.create import build_backbone, create_backbone

__all__ = ["Backbone", "BackboneConfig", "build_backbone", "create_backbone"]
