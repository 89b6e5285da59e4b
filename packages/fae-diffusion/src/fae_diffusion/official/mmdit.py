"""Reading MMDiT checkpoints: REPA's text-to-image models, SD3's and SD3.5's own files, and diffusers'.

Their convention of time is ours (t = 1 is noise, v = noise - data), so that weights are only renamed and repacked. A
file of SD3 holds other networks beside the transformer, whose names begin with "model.diffusion_model."; they are left
out. diffusers' names are first turned into SD3's.
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
from fae_core.models.no_init import no_initial_weights
from fae_core.models.pretrained import PretrainedModel
from fae_core.spec import LatentSpec
from fae_diffusion.official.mmdit_diffusers import is_diffusers, sd3_arguments, sd3_state
from fae_diffusion.official.transformer import WRAPPERS

ModelT = TypeVar("ModelT", bound=PretrainedModel[Any])

_PREFIX = "model.diffusion_model."
_SD3_HEAD = 64  # SD3's width of a head; REPA's is 32
_SD3_SIDE = 128  # latents of the 1024 pixels at which SD3 was released

# Constructor arguments of REPA's and SD3's MMDiT, and what is taken where the weights do not show them.
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
    "x_block_self_attn_layers": [],
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
    "verbose",
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
    (r"\.attn2\.ln_([qk])\.", r".own_attention.\1_norm."),
    (r"\.attn2\.", ".own_attention."),
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
    where = "official MMDiT checkpoint"
    named = transformer_of(state_dict)
    own_heads: int | None = None
    scaled = is_diffusers(named)
    if scaled:
        named = sd3_state(named, where)
        config, own_heads = sd3_arguments(config, named)
    for name in config:
        if name not in _DEFAULTS and name not in _IGNORED:
            raise UnknownName("constructor argument of the original MMDiT", str(name), [*_DEFAULTS, *_IGNORED])
    state = translate_state(named, where)
    given = {name: value for name, value in config.items() if name in _DEFAULTS}
    if given.get("input_size", 0) is None:  # SD3's own code gives none, its position table is cropped
        del given["input_size"]
    arguments = {**_DEFAULTS, **_shown(named, state, where), **given}
    width = state["patch_embedding.weight"].shape[0]
    heads = int(arguments["depth"]) if own_heads is None else own_heads  # SD3's rule
    scaled |= width == _SD3_HEAD * heads and "pooled_embedding.0.weight" in state
    ours = _fields(arguments, state, heads, where)
    if scaled:  # SD3's time embedding sees 1000 t
        ours["time_scale"] = 1000.0
    ours = parse_config(cls.config_class, {**ours, **fields}, "official MMDiT config")
    spec = spec or _derived_spec(arguments, state, scaled and "input_size" not in given)
    if spec.channels != arguments["in_channels"]:
        raise InvalidFile(
            f"{where}: its latents of {arguments['in_channels']} channels do not fit the spec's {spec.channels}"
        )
    with no_initial_weights():
        model = cls(ours, spec)
    own = ("null_tokens", "null_mask", "null_pooled")  # in no checkpoint
    state.update({name: value for name, value in model.named_buffers() if name in own})
    load_state(model, state, where)
    return model.eval()


def transformer_of(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The transformer's tensors of a file, without what wrappers and files of several networks put before names."""
    state = {WRAPPERS.sub("", name): tensor for name, tensor in state_dict.items()}
    inside = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
    return inside or state


def _shown(named: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """The original's arguments that its weights show.

    Args:
        named: with the original's names.
        state: with ours.
        where: what it is called in messages.

    Raises:
        InvalidFile: where the weights without which it is no MMDiT are missing.
    """
    missing = [n for n in ("patch_embedding.weight", "text_embedding.weight", "positions") if n not in state]
    if missing:
        raise InvalidFile(f"{where} lacks {', '.join(missing)}")
    numbers = [int(found[1]) for found in (re.match(r"blocks\.(\d+)\.", name) for name in state) if found]
    own = {int(name.split(".")[1]) for name in state if ".own_attention." in name}
    width, channels, patch, _ = named["x_embedder.proj.weight"].shape
    shown: dict[str, Any] = {"x_block_self_attn_layers": sorted(own), "in_channels": channels, "patch_size": patch}
    if numbers:
        shown["depth"] = max(numbers) + 1
        norm = [name for name in state if name.startswith("blocks.0.image.q_norm.")]
        shown["qk_norm"] = None if not norm else "ln" if "blocks.0.image.q_norm.bias" in state else "rms"
        shown["qkv_bias"] = "blocks.0.image.qkv.bias" in state
        shown["swiglu"] = "blocks.0.image.mlp.gate_up.weight" in state
        if "blocks.0.image.mlp.up.weight" in state:
            shown["mlp_ratio"] = len(state["blocks.0.image.mlp.up.weight"]) / width
        shown["scale_mod_only"] = len(state.get("blocks.0.image.modulation.weight", ())) == 4 * width
    if "pooled_embedding.0.weight" in state:
        shown["adm_in_channels"] = state["pooled_embedding.0.weight"].shape[1]
    if len(state.get("final.weight", ())) == 2 * channels * patch**2:
        shown["learn_sigma"] = True
    if "registers" in state:
        shown["register_length"] = state["registers"].shape[1]
    return shown


def _derived_spec(arguments: Mapping[str, Any], state: Mapping[str, Tensor], released: bool) -> LatentSpec:
    """The latent space that an original was made for: 8 pixels for each latent position.

    Args:
        arguments: of the original's constructor.
        state: with our names.
        released: the arguments say no size, and the file is SD3's own.
    """
    side, channels = arguments["input_size"], arguments["in_channels"]
    if released:
        side = min(_SD3_SIDE, state["positions"].shape[0] * arguments["patch_size"])
    sizes = {"channels": channels, "height": side, "width": side, "image_size": side * 8}
    spec = LatentSpec.from_dict({**sizes, "backbone": "official/mmdit"}, "official MMDiT config")
    if channels == 16:  # SD3's VAE: (z - 0.0609) * 1.5305
        return spec.with_statistics([0.0609] * 16, [1 / 1.5305] * 16)
    if channels == 4:  # SD's VAE: z * 0.18215
        return spec.with_statistics([0.0] * 4, [1 / 0.18215] * 4)
    return spec


def translate_state(state_dict: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """An original's state dict with our names and layouts.

    Args:
        state_dict: with the original's names.
        where: what it is called in messages.

    Raises:
        InvalidFile: where one of the matrices of a SwiGLU is missing.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
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


def _fields(arguments: Mapping[str, Any], state: Mapping[str, Tensor], heads: int, where: str) -> dict[str, Any]:
    """Fields of our config, from the arguments and, where the original hard-codes a size, from the weights."""
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
        "heads": heads,
        "mlp_ratio": arguments["mlp_ratio"],
        "text_width": state["text_embedding.weight"].shape[1],
        "pooled_width": arguments["adm_in_channels"],
        "registers": arguments["register_length"],
        "swiglu": arguments["swiglu"],
        "rms_norm": arguments["rmsnorm"],
        "qk_norm": _QK_NORMS[arguments["qk_norm"]],
        "qkv_bias": arguments["qkv_bias"],
        "wo_shift": arguments["scale_mod_only"],
        "own_attention": tuple(arguments["x_block_self_attn_layers"] or ()),
        "learn_sigma": doubled,
        "position_size": state["positions"].shape[0],
        "projection_dims": tuple(arguments["z_dims"]) if projects else (),
        "projection_depth": arguments["encoder_depth"],
        "projection_hidden": arguments["projector_dim"],
    }
