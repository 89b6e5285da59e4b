"""KL autoencoders of LDM's family as a ConvVAE's settings and names: LDM's own layout and diffusers' AutoencoderKL.

LDM's layout is that of CompVis' autoencoders, of SD-VAE's original files, of Flux' and of VA-VAE (LightningDiT). Sizes
are read from the weights, which show all but the groups of the norms, the size of images and the scale of the latents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fae_core.errors import InvalidFile
from fae_decoders.official.attention import Packed

Statistics = tuple[list[float], list[float]]
_IMAGE_SIZE = 256  # LDM's and VA-VAE's, where nothing says otherwise
_FIRST = "encoder.conv_in.weight"
_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
# What training leaves beside an autoencoder's weights: discriminators, VA-VAE's backbone and projection, averages.
_TRAINING = ("loss.", "foundation_model.", "linear_proj.", "model_ema.", "colorize")
# Settings that a ConvVAE has no choice about, of diffusers and of LDM.
_FIXED = {
    "act_fn": "silu",
    "in_channels": 3,
    "out_channels": 3,
    "out_ch": 3,
    "double_z": True,
    "resamp_with_conv": True,
    "tanh_out": False,
    "give_pre_end": False,
    "use_variational": True,
}
_BLOCKS = {
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
}
# Names of projections, of LDM, of diffusers since 0.18, and of diffusers before.
_ATTENTION = {
    "q": "q",
    "k": "k",
    "v": "v",
    "proj_out": "proj",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj",
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj",
}
_BOTH = (
    (".post_quant_conv.", ".decoder.latent_conv."),
    (".quant_conv.", ".encoder.latent_conv."),
)
_DIFFUSERS = (
    *_BOTH,
    (".down_blocks.", ".levels."),
    (".up_blocks.", ".levels."),
    (".resnets.", ".blocks."),
    (".downsamplers.0.", ".resample."),
    (".upsamplers.0.", ".resample."),
    (".mid_block.blocks.0.", ".middle.0."),
    (".mid_block.blocks.1.", ".middle.2."),
    (".mid_block.attentions.0.", ".middle.1."),
    (".group_norm.", ".norm."),
    (".conv_shortcut.", ".shortcut."),
    (".conv_norm_out.", ".norm_out."),
)
_LDM = (
    *_BOTH,
    (".down.", ".levels."),
    (".up.", ".levels."),
    (".block.", ".blocks."),
    (".attn.", ".attentions."),
    (".downsample.", ".resample."),
    (".upsample.", ".resample."),
    (".mid.block_1.", ".middle.0."),
    (".mid.attn_1.", ".middle.1."),
    (".mid.block_2.", ".middle.2."),
    (".nin_shortcut.", ".shortcut."),
)
_UP = re.compile(r"^decoder\.up\.(\d+)\.")


def translate_autoencoder_kl(
    state: Mapping[str, Tensor], config: Mapping[str, Any], image_size: int | tuple[int, int] | None
) -> tuple[dict[str, Any], dict[str, Tensor], Statistics | None]:
    """A ConvVAE's settings and weights, and the statistics of its latents where they are known.

    Args:
        state: In LDM's layout or diffusers'.
        config: See `ConvVAE.from_official`.
        image_size: Pixels of the images; None: the config's, or 256.

    Raises:
        InvalidFile: See `ConvVAE.from_official`.
    """
    config = {**config, **config.get("ddconfig", {})}
    require_supported(config)
    converted = convert_state(state)
    sizes = _sizes(converted)
    _require_same(config, sizes)
    size = image_size or config.get("sample_size") or config.get("resolution") or _IMAGE_SIZE
    fields = {
        **sizes,
        "image_size": tuple(size) if isinstance(size, list) else size,
        "norm_groups": config.get("norm_num_groups", 32),
    }
    return fields, converted, _statistics(state, config, sizes["channels"])


def convert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An autoencoder's weights under a ConvVAE's names.

    Raises:
        InvalidFile: It is not one, or an attention layer lacks one of query, key and value.
    """
    state = _autoencoder_part(state)
    is_ldm = any(name.startswith("encoder.down.") for name in state)
    levels = 1 + max((int(found[1]) for found in map(_UP.match, state) if found), default=0)
    converted: dict[str, Tensor] = {}
    packed = Packed()
    for key, value in state.items():
        # LDM counts the decoder's levels from the finest, we from the coarsest, in the order of computation.
        name = _UP.sub(lambda found: f"decoder.up.{levels - 1 - int(found[1])}.", key) if is_ldm else key
        name = f".{name}"
        for theirs, ours in _LDM if is_ldm else _DIFFUSERS:
            name = name.replace(theirs, ours)
        name = name[1:]
        part = next((p for p in _ATTENTION if f".{p}." in name), None)
        if part is None:
            converted[name] = value
            continue
        value = value.flatten(1) if value.ndim == 4 else value  # a projection as a 1x1 convolution
        if _ATTENTION[part] == "proj":
            converted[name.replace(f".{part}.", ".attention.proj.")] = value
        else:
            packed.add(name.replace(f".{part}.", ".attention.qkv."), _ATTENTION[part], value)
    return {**converted, **packed.joined()}


def diffusers_statistics(config: Mapping[str, Any], channels: int) -> Statistics:
    """Per-channel mean and standard deviation by which diffusers' pipelines normalise latents.

    Args:
        config: Content of the model's config.json.
        channels: C of the latents.

    Raises:
        InvalidFile: The numbers do not fit the channels, or the scale is 0.
    """
    scale = config.get("scaling_factor", 0.18215)
    shift = config.get("shift_factor") or 0.0
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        mean, std = [shift] * channels, [1.0] * channels
    numbers = (*mean, *std, scale)
    if (
        len(mean) != channels
        or len(std) != channels
        or not all(isinstance(n, (int, float)) for n in numbers)
        or not scale
    ):
        raise InvalidFile(f"scaling_factor, latents_mean and latents_std do not fit {channels} channels")
    return [float(m) for m in mean], [float(s) / scale for s in std]


def _statistics(state: Mapping[str, Tensor], config: Mapping[str, Any], channels: int) -> Statistics | None:
    """What config or checkpoint of a whole diffusion model say of the scale; None where they say nothing."""
    if "_class_name" in config or "scaling_factor" in config:
        return diffusers_statistics(config, channels)
    scale = config.get("scale_factor", state.get("scale_factor"))
    return None if scale is None else ([0.0] * channels, [1 / float(scale)] * channels)


def _autoencoder_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The autoencoder's own weights, without the name of the whole that they are in (SD's first_stage_model)."""
    prefixes = [name.removesuffix(_FIRST) for name in state if name.endswith(_FIRST)]
    prefix = min((p for p in prefixes if f"{p}decoder.conv_in.weight" in state), key=len, default=None)
    if prefix is None:
        raise InvalidFile(f"this is no KL autoencoder of LDM's or diffusers' layout: it has no {_FIRST}")
    inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    part = {name: value for name, value in inside.items() if name.startswith(_PARTS)}
    others = sorted(name for name in inside.keys() - part.keys() if not name.startswith(_TRAINING))
    if others:
        raise InvalidFile(f"the checkpoint holds {others[0]}, which is no part of a KL autoencoder")
    return part


def require_supported(config: Mapping[str, Any]) -> None:
    """Raise InvalidFile for settings under which the weights mean something that a ConvVAE does not compute."""
    kind = config.get("_class_name", "AutoencoderKL")
    if kind != "AutoencoderKL":
        raise InvalidFile(f"this is a {kind!r}, not diffusers' AutoencoderKL")
    for name, wanted in _FIXED.items():
        if config.get(name, wanted) != wanted:
            raise InvalidFile(f"{name} {config[name]!r} is not supported, only {wanted!r}")
    for name, kinds in _BLOCKS.items():
        others = sorted(set(config.get(name, ())) - set(kinds))
        if others:
            raise InvalidFile(f"{name} {others[0]!r} is not supported, only {' and '.join(kinds)}")


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of ConvVAEConfig that weights with our names show."""
    count = len({name.split(".")[2] for name in state if name.startswith("encoder.levels.")})
    if {"encoder.latent_conv.weight", "decoder.latent_conv.weight"} - state.keys() and any(
        name in state for name in ("encoder.latent_conv.weight", "decoder.latent_conv.weight")
    ):
        raise InvalidFile("quant_conv without post_quant_conv, or the reverse, is not supported")
    try:
        widths = tuple(state[f"encoder.levels.{i}.blocks.0.conv2.weight"].shape[0] for i in range(count))
        (stem, colours), inner = state[_FIRST].shape[:2], state["encoder.conv_out.weight"].shape[0] // 2
        inward = state.get("decoder.latent_conv.weight", state["decoder.conv_in.weight"])
    except KeyError as error:
        raise InvalidFile(f"the autoencoder's {error.args[0]} is missing") from None
    if colours != 3 or not widths:
        raise InvalidFile(f"an autoencoder of {colours} colours and {len(widths)} levels is not supported")
    channels = inward.shape[1]
    return {
        "channels": channels,
        "widths": widths,
        "stem": None if stem == widths[0] else stem,
        "inner_channels": None if inner == channels else inner,
        "blocks": len({name.split(".")[4] for name in state if name.startswith("encoder.levels.0.blocks.")}),
        "attention": "encoder.middle.1.norm.weight" in state,
        "latent_conv": "encoder.latent_conv.weight" in state,
        "encoder_attention": tuple(i for i in range(count) if f"encoder.levels.{i}.attentions.0.norm.weight" in state),
        "decoder_attention": tuple(
            i for i in range(count) if f"decoder.levels.{count - 1 - i}.attentions.0.norm.weight" in state
        ),
    }


def _require_same(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> None:
    """Raise InvalidFile where LDM's constructor arguments are not those of the weights."""
    stem = sizes["stem"] or sizes["widths"][0]
    found = {
        "ch": stem,
        "ch_mult": [width / stem for width in sizes["widths"]],
        "num_res_blocks": sizes["blocks"],
        "embed_dim": sizes["channels"],
        "z_channels": sizes["inner_channels"] or sizes["channels"],
    }
    for name, value in found.items():
        given = config.get(name)
        if given is not None and (list(given) if isinstance(given, (list, tuple)) else given) != value:
            raise InvalidFile(f"the config is for {name} {given}, the checkpoint has {value}")
