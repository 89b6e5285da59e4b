"""RAE's decoders as a RAEDecoder's settings and names: RAE's own layout and that of diffusers' AutoencoderRAE."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from fae_core.errors import InvalidFile
from fae_core.layers import sincos_position_table
from fae_decoders.official.attention import Packed

# Attention heads of the released decoders (ViT-B, -L and -XL) by width: the weights do not show them.
_HEADS = {768: 12, 1024: 16, 1152: 16}
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)*(?:decoder\.)?")
_LAYER = re.compile(r"decoder_layers\.(\d+)\.(.+)\.(weight|bias)")
_LAYER_NAMES = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attention.proj",
    "attention.to_out.0": "attention.proj",
    "intermediate.dense": "mlp.up",
    "output.dense": "mlp.down",
}
_PROJECTIONS = {
    **{f"attention.attention.{name}": name[0] for name in ("query", "key", "value")},
    **{f"attention.to_{part}": part for part in "qkv"},
}
_NAMES = {
    "trainable_cls_token": "class_token",
    "decoder_pos_embed": "position",
    "decoder_embed.weight": "proj_in.weight",
    "decoder_embed.bias": "proj_in.bias",
    "decoder_norm.weight": "norm.weight",
    "decoder_norm.bias": "norm.bias",
    "decoder_pred.weight": "proj_out.weight",
    "decoder_pred.bias": "proj_out.bias",
}
# What a config may say, and what is built here.
_FIXED = {"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3}
# diffusers stretches every grid to the positions of 16x16, and does not store the table.
_SPAN = 16


def translate_rae_decoder(
    state: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A RAEDecoder's settings and weights; without "position" where the table is MAE's own.

    Args:
        state: Of a decoder alone or of a whole RAE, in either layout.
        config: RAE's config.json of the decoder, or diffusers'; may be empty for the released widths.

    Raises:
        InvalidFile: See `RAEDecoder.from_official`.
    """
    part = _decoder_part(state)
    is_diffusers = any(".attention.to_q." in name for name in part)
    fields = _sizes(part, config, _side(part, config))
    converted = _convert(part)
    if is_diffusers:
        for name in ("mean", "std"):
            if f"encoder_{name}" in state:
                fields[f"pixel_{name}"] = tuple(state[f"encoder_{name}"].flatten().tolist())
        if "position" not in converted:
            (height, width), dim = fields["grid"], fields["width"]
            table = sincos_position_table(height, width, dim, span=_SPAN)
            converted["position"] = torch.cat([table.new_zeros(1, dim), table])
    return fields, converted


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


def _side(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> int:
    """Tokens a side: of the stored table, of diffusers' config, or 16. Grids are square, as in the original."""
    if "decoder_pos_embed" in state:
        tokens = state["decoder_pos_embed"].shape[-2] - 1
        if isqrt(tokens) ** 2 != tokens:
            raise InvalidFile(f"{tokens} tokens do not form a square")
        return isqrt(tokens)
    if "encoder_input_size" in config and "encoder_patch_size" in config:
        return config["encoder_input_size"] // config["encoder_patch_size"]
    return 16


def _sizes(state: Mapping[str, Tensor], config: Mapping[str, Any], side: int) -> dict[str, Any]:
    """Fields of RAEDecoderConfig."""
    for name, wanted in _FIXED.items():
        if config.get(name, wanted) != wanted:
            raise InvalidFile(f"RAE's decoder with {name} {config[name]!r} is not supported, only {wanted!r}")
    width, feature_dim = state["decoder_embed.weight"].shape
    heads = config.get("decoder_num_attention_heads", _HEADS.get(width))
    if heads is None:
        raise InvalidFile(
            f"a decoder of width {width} is none of the released ones; pass its config.json with --config"
        )
    if config.get("decoder_hidden_size", width) != width:
        raise InvalidFile(f"the config is for width {config['decoder_hidden_size']}, the checkpoint has {width}")
    colours = state["decoder_pred.weight"].shape[0]
    patch = isqrt(colours // 3)
    if 3 * patch * patch != colours:
        raise InvalidFile(f"tokens of {colours} numbers each do not form a square of colours")
    return {
        "feature_dim": feature_dim,
        "grid": (side, side),
        "image_size": side * patch,
        "width": width,
        "depth": 1 + max(int(match[1]) for match in map(_LAYER.fullmatch, state) if match),
        "heads": heads,
        "mlp_hidden": state["decoder_layers.0.intermediate.dense.weight"].shape[0],
        "norm_eps": config.get("layer_norm_eps", 1e-12),
    }


def _convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under a RAEDecoder's names."""
    converted: dict[str, Tensor] = {}
    packed = Packed()
    for name, value in state.items():
        layer = _LAYER.fullmatch(name)
        if layer is None:
            ours = _NAMES.get(name, name)
            is_row = ours in ("class_token", "position")  # (1, 1, C) and (1, 1 + N, C)
            converted[ours] = value.flatten(0, -2).squeeze(0) if is_row else value
            continue
        number, part, kind = layer.groups()
        if part in _PROJECTIONS:
            packed.add(f"blocks.{number}.attention.qkv.{kind}", _PROJECTIONS[part], value)
        else:
            converted[f"blocks.{number}.{_LAYER_NAMES.get(part, part)}.{kind}"] = value
    return {**converted, **packed.joined()}
