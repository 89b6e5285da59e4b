"""Reading checkpoints in SD3's MMDiT layout: REPA's text-to-image models, and SD3's own.

Their convention of time is ours (t = 1 is noise, v = noise - data), so that weights are only renamed and repacked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from fae_core.config import parse_config
from fae_core.errors import InvalidFile, UnknownName
from fae_core.models.folder import load_state
from fae_core.models.pretrained import PretrainedModel
from fae_core.spec import LatentSpec
from fae_diffusion.official.transformer import WRAPPERS

ModelT = TypeVar("ModelT", bound=PretrainedModel[Any])

# Constructor arguments of REPA's MMDiT and their defaults.
_DEFAULTS: dict[str, Any] = {
    "input_size": 32,
    "patch_size": 2,
    "in_channels": 4,
    "depth": 24,
    "mlp_ratio": 4.0,
    "learn_sigma": False,
    "adm_in_channels": None,
    "register_length": 0,
    "rmsnorm": False,
    "scale_mod_only": False,
    "swiglu": False,
    "out_channels": None,
    "qk_norm": None,
    "qkv_bias": True,
    "encoder_depth": 8,
    "z_dims": [768],
    "projector_dim": 2048,
}
# Arguments that it overwrites, or that change no number.
_IGNORED = (
    "context_embedder_config",
    "attn_mode",
    "pos_embed_scaling_factor",
    "pos_embed_offset",
    "pos_embed_max_size",
    "num_patches",
    "dtype",
    "device",
)
_QK_NORMS = {None: None, "rms": "rms", "ln": "layer"}

_NAMES: tuple[tuple[str, str], ...] = (
    (r"^pos_embed$", "positions"),
    (r"^x_embedder\.proj\.", "patch_embedding."),
    (r"^t_embedder\.", "time_embedding."),
    (r"^y_embedder\.mlp\.", "pooled_embedding."),
    (r"^context_embedder\.", "text_embedding."),
    (r"^register$", "registers"),
    (r"^joint_blocks\.(\d+)\.context_block\.", r"blocks.\1.text."),
    (r"^joint_blocks\.(\d+)\.x_block\.", r"blocks.\1.image."),
    (r"\.attn\.ln_([qk])\.", r".\1_norm."),
    (r"\.attn\.", "."),
    (r"\.adaLN_modulation\.1\.", ".modulation."),
    (r"^final_layer\.modulation\.", "final_modulation."),
    (r"^final_layer\.linear\.", "final."),
    (r"\.mlp\.fc1\.", ".mlp.up."),
    (r"\.mlp\.fc2\.", ".mlp.down."),
    (r"\.mlp\.w2\.", ".mlp.down."),
    (r"^projectors\.", "projections."),
)


def load_official_mmdit(
    cls: type[ModelT],
    state_dict: Mapping[str, Tensor],
    config: Mapping[str, Any],
    spec: LatentSpec | None,
    fields: Mapping[str, Any],
) -> ModelT:
    """See `MMDiT.from_official`."""
    for name in config:
        if name not in _DEFAULTS and name not in _IGNORED:
            raise UnknownName("constructor argument of the original MMDiT", str(name), [*_DEFAULTS, *_IGNORED])
    arguments = {**_DEFAULTS, **{name: value for name, value in config.items() if name in _DEFAULTS}}
    where = "official MMDiT checkpoint"
    state = translate_state(state_dict, where)
    ours = parse_config(cls.config_class, {**_fields(arguments, state, where), **fields}, "official MMDiT config")
    channels, size = arguments["in_channels"], arguments["input_size"]
    if spec is None:
        described = {"channels": channels, "height": size, "width": size, "image_size": size * 8}
        spec = LatentSpec.from_dict({**described, "backbone": "official/mmdit"}, "official MMDiT config")
    if spec.channels != channels:
        raise InvalidFile(f"{where}: its latents of {channels} channels do not fit the spec's {spec.channels}")
    model = cls(ours, spec)
    state.update({name: getattr(model, name) for name in ("null_tokens", "null_mask")})
    load_state(model, state, where)
    return model.eval()


def translate_state(state_dict: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """An original's state dict with our names and layouts.

    Args:
        state_dict: with the original's names.
        where: what it is called in messages.

    Raises:
        InvalidFile: where one of the matrices of a SwiGLU is missing.
    """
    state: dict[str, Tensor] = {}
    for original, tensor in state_dict.items():
        name = WRAPPERS.sub("", original)
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor.detach().float()
    for name in [name for name in state if name.endswith(".mlp.w1.weight")]:
        up = state.pop(name.replace(".w1.", ".w3."), None)
        if up is None:
            raise InvalidFile(f"{where} lacks the third matrix of {name}")
        state[name.replace(".w1.", ".gate_up.")] = torch.cat([state.pop(name), up])
    if "patch_embedding.weight" in state:
        state["patch_embedding.weight"] = state["patch_embedding.weight"].flatten(1)
    if "positions" in state:
        side = math.isqrt(state["positions"].shape[1])
        state["positions"] = state["positions"].view(side, side, -1)
    return state


def _fields(arguments: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """Fields of our config, from the arguments and, where the original hard-codes a size, from the weights."""
    missing = [n for n in ("patch_embedding.weight", "text_embedding.weight", "positions") if n not in state]
    if missing:
        raise InvalidFile(f"{where} lacks {', '.join(missing)}")
    if arguments["qk_norm"] not in _QK_NORMS:
        raise UnknownName("qk_norm of the original MMDiT", str(arguments["qk_norm"]), ["rms", "ln"])
    doubled = arguments["learn_sigma"] if arguments["out_channels"] is None else None
    if doubled is None:
        doubled = arguments["out_channels"] == 2 * arguments["in_channels"]
        if not doubled and arguments["out_channels"] != arguments["in_channels"]:
            raise InvalidFile(f"{where}: out_channels must be in_channels, or twice as many")
    projects = any(name.startswith("projections.") for name in state)
    return {
        "patch_size": arguments["patch_size"],
        "width": state["patch_embedding.weight"].shape[0],
        "depth": arguments["depth"],
        "heads": arguments["depth"],  # SD3's rule
        "mlp_ratio": arguments["mlp_ratio"],
        "text_width": state["text_embedding.weight"].shape[1],
        "pooled_width": arguments["adm_in_channels"],
        "registers": arguments["register_length"],
        "swiglu": arguments["swiglu"],
        "rms_norm": arguments["rmsnorm"],
        "qk_norm": _QK_NORMS[arguments["qk_norm"]],
        "qkv_bias": arguments["qkv_bias"],
        "wo_shift": arguments["scale_mod_only"],
        "learn_sigma": doubled,
        "position_size": state["positions"].shape[0],
        "projection_dims": tuple(arguments["z_dims"]) if projects else (),
        "projection_depth": arguments["encoder_depth"],
        "projection_hidden": arguments["projector_dim"],
    }
