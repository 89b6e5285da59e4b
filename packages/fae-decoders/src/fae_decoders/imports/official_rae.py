"""A whole RAE, or its decoder alone, in RAE's own layout and in that of diffusers' AutoencoderRAE."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fae_core.errors import FAEError, InvalidFile, InvalidSettings
from fae_core.files import read_json
from fae_core.models.foreign import read_weights
from fae_decoders.fae.fae import FAE
from fae_decoders.fae.rae_decoder import RAEDecoder
from fae_decoders.imports.diffusers_folder import DiffusersFolder
from fae_decoders.imports.rae_encoder import Colours, StoredEncoder, build_encoder, patch_of
from fae_decoders.imports.statistics import RAE_EPS, as_statistics, read_statistics

_CLASS = "AutoencoderRAE"


def decoder_from_official(
    state: Mapping[str, Tensor],
    stored: Mapping[str, Any] | None = None,
    *,
    pixel_mean: Colours | None = None,
    pixel_std: Colours | None = None,
) -> RAEDecoder:
    """The decoder in a state dict, in eval mode.

    Args:
        state: Of a decoder alone or of a whole RAE, in either layout.
        stored: Content of the original's config.json, see `RAEDecoder.from_official`.
        pixel_mean: Of the scale of its output, see `RAEDecoder.from_official`.
        pixel_std: As `pixel_mean`.

    Raises:
        InvalidFile: It is something else, or has a structure that is not supported.
    """
    return RAEDecoder.from_official(state, stored, pixel_mean=pixel_mean, pixel_std=pixel_std)


def rae_from_official(
    state: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    *,
    encoder: str | None = None,
    statistics: str | Path | None = None,
    colours: tuple[Colours, Colours] | None = None,
) -> FAE | RAEDecoder:
    """The tokenizer in a state dict; its decoder alone where there is no encoder in it and none is named.

    Its latents are the encoder's features, normalised by the original's statistics, which may differ by position.

    Args:
        state: Of a whole RAE or of a decoder alone, in either layout.
        config: Content of the original's config.json; diffusers' for its layout.
        encoder: A folder or hub repository of transformers with the encoder.
        statistics: RAE's stat.pt.
        colours: Mean and std of the encoder's images and the decoder's output; None: the encoder's own.

    Raises:
        FAEError: It is something else, has a structure that is not supported, or the parts do not fit.
    """
    config = config or {}
    mean_std = (None, None) if colours is None else colours
    found = StoredEncoder(state)
    decoder = RAEDecoder.from_official(state, config, pixel_mean=mean_std[0], pixel_std=mean_std[1])
    is_diffusers = "encoder_mean" in state
    if not found and encoder is None:
        if statistics is not None or (is_diffusers and len(state["_latents_mean"].flatten()) > 1):
            raise InvalidSettings("a decoder alone does not normalise latents; name the encoder, too (--encoder)")
        return decoder
    name = None if encoder is None else encoder.removeprefix("hf/")
    if colours is None and is_diffusers:
        colours = decoder.config.pixel_mean, decoder.config.pixel_std
    elif colours is None and name is None:
        colours = found.colours
    grid = decoder.config.grid[0]
    patch = found.patch if found else patch_of(name or "")
    input_size = config.get("encoder_input_size", grid * patch)
    image_size = decoder.config.image_size
    assert isinstance(image_size, int)
    sizes = {"channels": decoder.config.feature_dim, "input_size": input_size, "image_size": image_size}
    built = build_encoder(found, name, **sizes, colours=colours)
    scale = built.backbone.config.mean, built.backbone.config.std
    if (decoder.config.pixel_mean, decoder.config.pixel_std) != scale:
        decoder = RAEDecoder.from_official(state, config, pixel_mean=scale[0], pixel_std=scale[1])
    numbers = None
    if statistics is not None:
        numbers = read_statistics(statistics, built.spec.shape)
    elif is_diffusers:
        numbers = _diffusers_statistics(state, config, built.spec.shape)
    if numbers is not None:
        built.with_statistics(*numbers)
    built.stamp()
    return FAE(built, None, decoder).requires_grad_(False).eval()


def load_rae(
    source: str | Path,
    *,
    config: str | Path | None = None,
    encoder: str | None = None,
    statistics: str | Path | None = None,
    colours: tuple[Colours, Colours] | None = None,
    section: str | None = None,
    variant: str | None = None,
) -> FAE | RAEDecoder:
    """The RAE in a file of RAE's own layout, or in a folder or hub repository of diffusers' AutoencoderRAE.

    Args:
        source: The file, folder, or "owner/name".
        config: The original's config.json beside a file; the released widths need none.
        encoder: See `rae_from_official`.
        statistics: See `rae_from_official`.
        colours: See `rae_from_official`.
        section: Part of a file to read; None: as `read_state_dict` chooses.
        variant: Of a folder's weights.

    Raises:
        FAEError: As `rae_from_official`, and where files are missing or damaged.
    """
    options: dict[str, Any] = {"encoder": encoder, "statistics": statistics, "colours": colours}
    if Path(source).is_file() or Path(source).suffix in (".pt", ".pth", ".bin", ".safetensors"):
        state = read_weights(source, section=section, variant=variant)
        stored = read_json(Path(config)) if config is not None else None
        return rae_from_official(state, stored, **options)
    if config is not None:
        raise InvalidSettings("a config belongs to a file; a folder of diffusers' has its own")
    folder = DiffusersFolder(source, variant)
    stored = folder.config()
    if stored["_class_name"] != _CLASS:
        raise InvalidFile(f"{folder.path} holds a {stored['_class_name']!r}, not diffusers' {_CLASS}")
    try:
        return rae_from_official(folder.weights(section), stored, **options)
    except InvalidFile as error:
        raise InvalidFile(f"{folder.path}: {error}") from None


def _diffusers_statistics(
    state: Mapping[str, Tensor], config: Mapping[str, Any], shape: tuple[int, int, int]
) -> tuple[list[float], list[float]]:
    """diffusers' (z - mean) / (std + eps) * scaling_factor, on maps or, without reshape_to_2d, on tokens."""
    scale = float(config.get("scaling_factor") or 1.0)
    mean, std = state["_latents_mean"].float(), (state["_latents_std"].float() + RAE_EPS) / scale
    if not config.get("reshape_to_2d", True):
        tokens = (1, shape[1] * shape[2], shape[0])
        try:
            mean, std = (v.broadcast_to(tokens).transpose(1, 2).reshape(1, *shape) for v in (mean, std))
        except RuntimeError:
            raise FAEError(f"statistics of {tuple(mean.shape)} are not for tokens of {tokens[1:]}") from None
    return as_statistics(mean, std, shape, "the checkpoint")
