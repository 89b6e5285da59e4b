"""Transformer layers that more than one package builds its models from."""

from fae_core.layers.attention import SelfAttention
from fae_core.layers.embedding import LabelEmbedding, TimestepEmbedding, class_labels, sincos_position_table
from fae_core.layers.fp32_buffers import Fp32Buffers, RememberedBuffers
from fae_core.layers.mlp import MLP, SwiGLU, swiglu_hidden
from fae_core.layers.norm import RMSNorm
from fae_core.layers.rope import AxialRope, axial_angles, axial_tables

__all__ = [
    "MLP",
    "AxialRope",
    "Fp32Buffers",
    "LabelEmbedding",
    "RMSNorm",
    "RememberedBuffers",
    "SelfAttention",
    "SwiGLU",
    "TimestepEmbedding",
    "axial_angles",
    "axial_tables",
    "class_labels",
    "sincos_position_table",
    "swiglu_hidden",
]
