"""diffusers' SD3Transformer2DModel: its state dict and its config in the names and layouts of SD3's own code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fae_core.errors import InvalidFile, UnknownName

# diffusers' arguments -> those of SD3's own MMDiT; None: read from the weights.
_ARGUMENTS: dict[str, str | None] = {
    "sample_size": "input_size",
    "patch_size": "patch_size",
    "in_channels": "in_channels",
    "num_layers": "depth",
    "pooled_projection_dim": "adm_in_channels",
    "out_channels": "out_channels",
    "dual_attention_layers": "x_block_self_attn_layers",
    "qk_norm": "qk_norm",
    "attention_head_dim": None,
    "num_attention_heads": None,
    "joint_attention_dim": None,
    "caption_projection_dim": None,
    "pos_embed_max_size": None,
}
_QK_NORMS = {None: None, "rms_norm": "rms", "layer_norm": "ln"}

_NAMES: tuple[tuple[str, str], ...] = (
    (r"^pos_embed\.pos_embed$", "pos_embed"),
    (r"^pos_embed\.proj\.", "x_embedder.proj."),
    (r"^time_text_embed\.timestep_embedder\.", "t_embedder."),
    (r"^time_text_embed\.text_embedder\.", "y_embedder."),
    (r"_embedder\.linear_1\.", "_embedder.mlp.0."),
    (r"_embedder\.linear_2\.", "_embedder.mlp.2."),
    (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
    (r"^proj_out\.", "final_layer.linear."),
    (r"^transformer_blocks\.", "joint_blocks."),
    (r"\.norm1\.linear\.", ".x_block.adaLN_modulation.1."),
    (r"\.norm1_context\.linear\.", ".context_block.adaLN_modulation.1."),
    (r"\.ff\.", ".x_block.ff."),
    (r"\.ff_context\.", ".context_block.ff."),
    (r"\.ff\.net\.0\.proj\.", ".mlp.fc1."),
    (r"\.ff\.net\.2\.", ".mlp.fc2."),
    (r"\.attn\.add_([qkv])_proj\.", r".context_block.attn.to_\1."),
    (r"\.attn\.to_add_out\.", ".context_block.attn.proj."),
    (r"\.attn\.norm_added_([qk])\.", r".context_block.attn.ln_\1."),
    (r"(joint_blocks\.\d+)\.(attn2?)\.to_out\.0\.", r"\1.x_block.\2.proj."),
    (r"(joint_blocks\.\d+)\.(attn2?)\.norm_([qk])\.", r"\1.x_block.\2.ln_\3."),
    (r"(joint_blocks\.\d+)\.(attn2?)\.to_", r"\1.x_block.\2.to_"),
)
_QUERY = re.compile(r"\.to_q\.(weight|bias)$")


def is_diffusers(names: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has diffusers' names."""
    return any(name.startswith("transformer_blocks.") for name in names)


def sd3_state(state_dict: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """diffusers' state dict under SD3's names.

    Args:
        state_dict: with diffusers' names.
        where: what it is called in messages.

    Raises:
        InvalidFile: where one of queries, keys and values is missing.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor
    for query in [name for name in state if _QUERY.search(name)]:
        names = [query.replace(".to_q.", f".to_{part}.") for part in "qkv"]
        missing = [name for name in names if name not in state]
        if missing:
            raise InvalidFile(f"{where} lacks {', '.join(missing)}")
        state[query.replace(".to_q.", ".qkv.")] = torch.cat([state.pop(name) for name in names])
    width = state["x_embedder.proj.weight"].shape[0] if "x_embedder.proj.weight" in state else 0
    for name, tensor in state.items():
        if ".adaLN_modulation." in name and len(tensor) == 2 * width:  # scale, shift where SD3 has shift, scale
            state[name] = tensor.roll(width, 0)
    return state


def sd3_arguments(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[dict[str, Any], int | None]:
    """The arguments of SD3's own code, and the number of heads, which that code derives from the depth.

    Args:
        config: diffusers' config.json; names that begin with an underscore are ignored.
        state: under SD3's names.

    Raises:
        UnknownName: for an argument that diffusers does not have, or a norm of queries that is not read.
        InvalidFile: for heads that do not fit the width.
    """
    arguments: dict[str, Any] = {}
    for name, value in config.items():
        if name.startswith("_"):
            continue
        if name not in _ARGUMENTS:
            raise UnknownName("argument of diffusers' SD3Transformer2DModel", str(name), _ARGUMENTS)
        ours = _ARGUMENTS[name]
        if ours is not None and (ours != "out_channels" or value is not None):
            arguments[ours] = value
    if "qk_norm" in arguments:
        if arguments["qk_norm"] not in _QK_NORMS:
            raise UnknownName("qk_norm of SD3Transformer2DModel", str(arguments["qk_norm"]), ["rms_norm", "layer_norm"])
        arguments["qk_norm"] = _QK_NORMS[arguments["qk_norm"]]
    if "x_embedder.proj.weight" not in state:
        return arguments, None
    width, size = state["x_embedder.proj.weight"].shape[0], config.get("attention_head_dim", 64)
    heads = config.get("num_attention_heads", width // size)
    if heads < 1 or (("attention_head_dim" in config or "num_attention_heads" not in config) and heads * size != width):
        raise InvalidFile(
            f"diffusers' SD3Transformer2DModel: {heads} heads (num_attention_heads) of {size} (attention_head_dim) are "
            f"not the width {width} of its tokens; give the numbers of its config.json"
        )
    return arguments, heads
