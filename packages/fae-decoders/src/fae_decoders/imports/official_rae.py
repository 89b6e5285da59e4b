"""RAE's decoder checkpoints in our layout: names, packed attention weights, and the sizes that the weights show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from fae_core.config import parse_config
from fae_core.errors import InvalidFile
from fae_core.models.folder import load_state
from fae_decoders.fae.rae_decoder import RAEDecoder, RAEDecoderConfig

# Attention heads of the released decoders (ViT-B, -L and -XL) by width: the weights do not show them.
_HEADS = {768: 12, 1024: 16, 1152: 16}
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)*(?:decoder\.)?")
_LAYER = re.compile(r"decoder_layers\.(\d+)\.(.+)\.(weight|bias)")
_LAYER_NAMES = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attention.proj",
    "intermediate.dense": "mlp.up",
    "output.dense": "mlp.down",
}
_NAMES = {
    "decoder_embed.weight": "proj_in.weight",
    "decoder_embed.bias": "proj_in.bias",
    "decoder_norm.weight": "norm.weight",
    "decoder_norm.bias": "norm.bias",
    "decoder_pred.weight": "proj_out.weight",
    "decoder_pred.bias": "proj_out.bias",
}
# What the original's config.json may say, and what is built here.
_FIXED = {"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3}


def decoder_from_official(
    state: Mapping[str, Tensor],
    stored: Mapping[str, Any] | None = None,
    *,
    pixel_mean: tuple[float, float, float] | None = None,
    pixel_std: tuple[float, float, float] | None = None,
) -> RAEDecoder:
    """The decoder in a state dict of the original, in eval mode.

    Args:
        state: Of a decoder alone or of a whole RAE.
        stored: Content of the original's config.json, needed for other widths than the released ones.
        pixel_mean: Of the scale of its output; None for ImageNet's (DINOv2, MAE), 0.5 each for SigLIP2.
        pixel_std: As `pixel_mean`.

    Raises:
        InvalidFile: It is something else, or has a structure that is not supported.
    """
    state = _decoder_part(state)
    scale = {"pixel_mean": pixel_mean, "pixel_std": pixel_std}
    fields = {**_sizes(state, stored or {}), **{name: value for name, value in scale.items() if value is not None}}
    decoder = RAEDecoder(parse_config(RAEDecoderConfig, fields, "RAE's decoder"))
    converted = _convert(state)
    # Conversions of the original leave its fixed table out.
    converted.setdefault("position", decoder.position)
    load_state(decoder, converted, "the checkpoint")
    return decoder.eval()


def _decoder_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's own weights, without wrappers' prefixes; InvalidFile where there are none."""
    part = {_WRAPPERS.sub("", name): value for name, value in state.items()}
    part = {name: value for name, value in part.items() if name.startswith(("decoder_", "trainable_cls_token"))}
    needed = {
        "decoder_embed.weight",
        "decoder_pred.weight",
        "trainable_cls_token",
        "decoder_layers.0.intermediate.dense.weight",
    }
    missing = sorted(needed - part.keys())
    if missing:
        raise InvalidFile(f"this is not one of RAE's decoders: it has no {missing[0]}")
    return part


def _sizes(state: Mapping[str, Tensor], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of RAEDecoderConfig. The grid is square, as the original's; without a position table it is 16x16."""
    for name, wanted in _FIXED.items():
        if stored.get(name, wanted) != wanted:
            raise InvalidFile(f"RAE's decoder with {name} {stored[name]!r} is not supported, only {wanted!r}")
    width, feature_dim = state["decoder_embed.weight"].shape
    heads = stored.get("decoder_num_attention_heads", _HEADS.get(width))
    if heads is None:
        raise InvalidFile(
            f"a decoder of width {width} is none of the released ones; pass its config.json with --config"
        )
    if stored.get("decoder_hidden_size", width) != width:
        raise InvalidFile(f"the config is for width {stored['decoder_hidden_size']}, the checkpoint has {width}")
    tokens = state["decoder_pos_embed"].shape[-2] - 1 if "decoder_pos_embed" in state else 256
    side, patch = isqrt(tokens), isqrt(state["decoder_pred.weight"].shape[0] // 3)
    if side * side != tokens or 3 * patch * patch != state["decoder_pred.weight"].shape[0]:
        raise InvalidFile(
            f"{tokens} tokens of {state['decoder_pred.weight'].shape[0]} numbers each do not form a square"
        )
    return {
        "feature_dim": feature_dim,
        "grid": (side, side),
        "image_size": side * patch,
        "width": width,
        "depth": 1 + max(int(match[1]) for match in map(_LAYER.fullmatch, state) if match),
        "heads": heads,
        "mlp_hidden": state["decoder_layers.0.intermediate.dense.weight"].shape[0],
        "norm_eps": stored.get("layer_norm_eps", 1e-12),
    }


def _convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under a RAEDecoder's names."""
    converted: dict[str, Tensor] = {}
    packed: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        layer = _LAYER.fullmatch(name)
        if layer is None:
            special = {"trainable_cls_token": "class_token", "decoder_pos_embed": "position"}.get(name)
            converted[special or _NAMES.get(name, name)] = value.flatten(0, -2).squeeze(0) if special else value
            continue
        number, part, kind = layer.groups()
        projection = part.removeprefix("attention.attention.")
        if projection in ("query", "key", "value"):
            packed.setdefault(f"blocks.{number}.attention.qkv.{kind}", {})[projection] = value
        else:
            converted[f"blocks.{number}.{_LAYER_NAMES.get(part, part)}.{kind}"] = value
    for name, parts in packed.items():
        if parts.keys() != {"query", "key", "value"}:
            raise InvalidFile(f"the checkpoint lacks one of query, key and value for {name}")
        converted[name] = torch.cat([parts["query"], parts["key"], parts["value"]])
    return converted
