"""The weights of diffusers' AutoencoderKL (SD, SDXL, SD3, Flux and others) in a ConvVAE, without diffusers.

It reads a folder as diffusers writes it: config.json and diffusion_pytorch_model.safetensors, or a whole
pipeline's with vae/ in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fae_core.config import parse_config
from fae_core.errors import InvalidFile, first_line
from fae_core.files import read_json
from fae_core.models.folder import load_state
from fae_core.models.foreign import read_state_dict
from fae_decoders.baselines.config import ConvVAEConfig
from fae_decoders.baselines.conv_vae import ConvVAE

_STEM, _SUFFIXES = "diffusion_pytorch_model", (".safetensors", ".bin")
# Settings of AutoencoderKL that a ConvVAE has no choice about.
_FIXED = {"act_fn": "silu", "in_channels": 3, "out_channels": 3}


def load_autoencoder_kl(
    source: str | Path, *, image_size: int | tuple[int, int] | None = None, variant: str | None = None
) -> ConvVAE:
    """The AutoencoderKL in a folder or hub repository as a ConvVAE in eval mode, with its own scale as statistics.

    The spec's statistics are such that normalised latents are those that diffusers' pipelines work with:
    (z - shift_factor) * scaling_factor, or with latents_mean and latents_std where it has them.

    Args:
        source: A folder, or "owner/name" on the hub.
        image_size: Pixels of the images that latents stand for; None is its `sample_size`.
        variant: Of the weights, as "fp16"; None takes the plain file, or the only variant that there is.

    Raises:
        InvalidFile: There is no such model, or it is of another class or structure.
    """
    folder = _vae_folder(source, variant)
    stored = read_json(folder / "config.json")
    config = read_config(stored, str(folder), image_size)
    vae = ConvVAE(config)
    path = _weights_file(folder, variant)
    load_state(vae, convert_state(read_state_dict(path, sections=())), str(path))
    vae.with_statistics(*latent_statistics(stored, config.channels, str(folder)))
    vae.stamp()
    return vae.eval()


def read_config(stored: Mapping[str, Any], where: str, image_size: int | tuple[int, int] | None) -> ConvVAEConfig:
    """A ConvVAE's configuration for one of AutoencoderKL's.

    Args:
        stored: Content of its config.json.
        where: Names it in errors.
        image_size: Pixels of the images; None is its `sample_size`.

    Raises:
        InvalidFile: Names what a ConvVAE does not support.
    """
    if stored.get("_class_name") != "AutoencoderKL":
        raise InvalidFile(f"{where} holds a {stored.get('_class_name')!r}, not diffusers' AutoencoderKL")
    for name, wanted in _FIXED.items():
        if stored.get(name, wanted) != wanted:
            raise InvalidFile(f"{where}: {name} {stored[name]!r} is not supported, only {wanted!r}")
    for name, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        others = sorted(set(stored.get(name, ())) - {kind})
        if others:
            raise InvalidFile(f"{where}: {name} {others[0]!r} is not supported, only {kind!r}")
    convolutions = {stored.get("use_quant_conv", True), stored.get("use_post_quant_conv", True)}
    if len(convolutions) != 1:
        raise InvalidFile(f"{where}: use_quant_conv and use_post_quant_conv differ, which is not supported")
    size = image_size or stored.get("sample_size", 32)
    fields = {
        "image_size": tuple(size) if isinstance(size, list) else size,
        "channels": stored.get("latent_channels", 4),
        "widths": stored.get("block_out_channels", (64,)),
        "blocks": stored.get("layers_per_block", 1),
        "norm_groups": stored.get("norm_num_groups", 32),
        "attention": stored.get("mid_block_add_attention", True),
        "latent_conv": convolutions.pop(),
    }
    return parse_config(ConvVAEConfig, fields, where)


def latent_statistics(stored: Mapping[str, Any], channels: int, where: str) -> tuple[list[float], list[float]]:
    """Per-channel mean and standard deviation by which diffusers' pipelines normalise these latents.

    Args:
        stored: Content of the model's config.json.
        channels: C of the latents.
        where: Names it in errors.

    Raises:
        InvalidFile: The numbers do not fit the channels, or the scale is 0.
    """
    scale = stored.get("scaling_factor", 0.18215)
    shift = stored.get("shift_factor") or 0.0
    mean, std = stored.get("latents_mean"), stored.get("latents_std")
    if mean is None or std is None:
        mean, std = [shift] * channels, [1.0] * channels
    numbers = (*mean, *std, scale)
    if (
        len(mean) != channels
        or len(std) != channels
        or not all(isinstance(n, (int, float)) for n in numbers)
        or not scale
    ):
        raise InvalidFile(f"{where}: scaling_factor, latents_mean and latents_std do not fit {channels} channels")
    return [float(m) for m in mean], [float(s) / scale for s in std]


def convert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AutoencoderKL's weights under a ConvVAE's names.

    Raises:
        InvalidFile: An attention layer lacks one of query, key and value.
    """
    converted: dict[str, Tensor] = {}
    packed: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        name = _rename(key)
        part = next((p for p in _ATTENTION if f".{p}." in name), None)
        if part is None:
            converted[name] = value
            continue
        # Before diffusers 0.18 the projections were 1x1 convolutions or had other names; the numbers are the same.
        value = value.flatten(1) if value.ndim == 4 else value
        if _ATTENTION[part] == "proj":
            converted[name.replace(f".{part}.", ".attention.proj.")] = value
        else:
            packed.setdefault(name.replace(f".{part}.", ".attention.qkv."), {})[_ATTENTION[part]] = value
    for name, parts in packed.items():
        if parts.keys() != {"q", "k", "v"}:
            raise InvalidFile(f"the checkpoint's {name} lacks one of query, key and value")
        converted[name] = torch.cat([parts["q"], parts["k"], parts["v"]])
    return converted


_ATTENTION = {
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj",
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj",
}
_NAMES = (
    (".post_quant_conv.", ".decoder.latent_conv."),
    (".quant_conv.", ".encoder.latent_conv."),
    (".down_blocks.", ".levels."),
    (".up_blocks.", ".levels."),
    (".resnets.", ".blocks."),
    (".downsamplers.0.", ".resample."),
    (".upsamplers.0.", ".resample."),
    (".mid_block.blocks.0.", ".middle.0."),
    (".mid_block.blocks.1.", ".middle.2."),
    (".mid_block.attentions.0.", ".middle.1."),
    (".middle.1.group_norm.", ".middle.1.norm."),
    (".conv_shortcut.", ".shortcut."),
    (".conv_norm_out.", ".norm_out."),
)


def _rename(key: str) -> str:
    """A ConvVAE's name for one of AutoencoderKL's."""
    key = f".{key}"
    for theirs, ours in _NAMES:
        key = key.replace(theirs, ours)
    return key[1:]


def _weights_file(folder: Path, variant: str | None) -> Path:
    """The weights to read: safetensors before torch's own format; InvalidFile where there are none or several."""
    wanted = [f"{_STEM}.{variant}{suffix}" if variant else f"{_STEM}{suffix}" for suffix in _SUFFIXES]
    for name in wanted:
        if (folder / name).is_file():
            return folder / name
    variants = sorted(path.name for suffix in _SUFFIXES for path in folder.glob(f"{_STEM}.*{suffix}"))
    names = {Path(name).stem.removeprefix(f"{_STEM}.") for name in variants}
    if variant is None and len(names) == 1:
        return _weights_file(folder, names.pop())
    others = f", but {' and '.join(variants)}; choose a variant" if variants else ""
    raise InvalidFile(f"{folder} has no {wanted[0]}{others}")


def _vae_folder(source: str | Path, variant: str | None) -> Path:
    """The folder with config.json and weights, downloaded where `source` is a repository."""
    folder = Path(source)
    if not folder.is_dir():
        # A repository often has every variant; without a choice they are fetched only where there is no plain file.
        folder = _from_hub(str(source), f"{_STEM}.{variant}.safetensors" if variant else f"{_STEM}.safetensors")
        if variant is None and not any(folder.glob(f"**/{_STEM}.safetensors")):
            folder = _from_hub(str(source), f"{_STEM}.*.safetensors")
    for candidate in (folder, folder / "vae"):
        if (candidate / "config.json").is_file():
            return candidate
    raise InvalidFile(f"{source} holds no config.json, neither itself nor in vae/")


def _from_hub(name: str, weights: str) -> Path:
    """A snapshot of a repository's configuration and of the files that `weights` matches."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise InvalidFile(f"{name} does not exist")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(name, allow_patterns=["config.json", "vae/config.json", weights, f"vae/{weights}"])
        )
    except Exception as error:
        reason = first_line(error)
        raise InvalidFile(f"{name} is neither a local folder nor a model that the hub provides: {reason}") from None
