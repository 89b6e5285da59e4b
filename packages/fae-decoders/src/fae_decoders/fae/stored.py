"""The parts of an FAE as their files describe them, compared before torch is imported and weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fae_core.config import parse_config
from fae_core.errors import FAEError, InvalidFile
from fae_core.files import read_json
from fae_core.folders import ENCODER, FEATURE_DECODER, LATENT_SPEC, MODEL_CONFIG, PIXEL_DECODER
from fae_core.models.sources import found_on_hub, resolve_model_folder
from fae_core.models.stored import stored_model
from fae_core.spec import LatentSpec
from fae_decoders.fae.config import AnyPixelDecoderConfig, FeatureDecoderConfig, PixelDecoderConfig, RAEDecoderConfig
from fae_decoders.fae.feature_space import FeatureSpaceMismatch
from fae_encoder.config import FAEEncoderConfig

FAE_TYPE = "fae"
PARTS = (ENCODER, FEATURE_DECODER, PIXEL_DECODER)
PIXEL_DECODERS: dict[str, type[AnyPixelDecoderConfig]] = {
    "pixel-decoder": PixelDecoderConfig,
    "rae-decoder": RAEDecoderConfig,
}


def pixel_decoder_type(folder: Path) -> str:
    """The model_type of the pixel decoder in a model folder. Raises InvalidFile where it holds another model."""
    kind = read_json(folder / MODEL_CONFIG).get("model_type")
    if kind not in PIXEL_DECODERS:
        raise InvalidFile(f"{folder} holds a {kind!r} model, not a pixel decoder ({' or '.join(PIXEL_DECODERS)})")
    return kind


def stored_parts(folder: Path) -> list[str]:
    """Which parts a folder holds; raises InvalidFile unless it is an FAE's."""
    stored: dict[str, Any] = read_json(folder / MODEL_CONFIG)
    if stored.get("model_type") != FAE_TYPE:
        hint = "; an FAE is written by `fae train autoencoder` and `fae train pixel --stage finetune`"
        raise InvalidFile(f"{folder} holds a {stored.get('model_type')!r} model, not an {FAE_TYPE!r}{hint}")
    parts = stored.get("config", {}).get("parts")
    if not isinstance(parts, list) or not {ENCODER} < set(parts) <= set(PARTS):
        raise InvalidFile(f"{folder}/{MODEL_CONFIG} does not say which parts the FAE has")
    if not (folder / LATENT_SPEC).is_file():
        raise InvalidFile(f"{folder} has no {LATENT_SPEC}")
    return parts


def stored_pixel_decoder(source: str | Path) -> AnyPixelDecoderConfig | None:
    """The configuration of a pixel decoder; None for a hub repository, of which only loading tells.

    Args:
        source: A model folder or run.

    Raises:
        InvalidFile: There is none, or a file of it is damaged.
    """
    if found_on_hub(source):
        return None
    folder = resolve_model_folder(source, parts=("",), weights=False)
    return _config(folder, PIXEL_DECODERS[pixel_decoder_type(folder)])


def stored_features(autoencoder: str | Path) -> tuple[int, int, int] | None:
    """(D, h, w) of the features of an FAE; None for an encoder alone, whose files do not say D, and on the hub."""
    stored = stored_model("tokenizer", autoencoder)
    if stored is None or not (stored.folder / FEATURE_DECODER / MODEL_CONFIG).is_file():
        return None
    config = _config(stored.folder / FEATURE_DECODER, FeatureDecoderConfig)
    return None if config.features is None else (config.features.dim, *config.features.grid)


def require_sizes(decoder: AnyPixelDecoderConfig | None, features: tuple[int, int, int] | None) -> None:
    """Raise FAEError where a pixel decoder is for features of other sizes (D, h, w); None is not compared."""
    if decoder is not None and features is not None and features != (decoder.feature_dim, *decoder.grid):
        raise FAEError(
            f"the backbone gives {features[0]} channels on {features[1:]}, the pixel decoder takes "
            f"{decoder.feature_dim} on {decoder.grid}"
        )


def require_parts(autoencoder: str | Path, pixel: str | Path) -> None:
    """Check that an FAE and a pixel decoder fit, as far as their files show; where one is on the hub, only its name.

    Args:
        autoencoder: Run or folder of stage Ia.
        pixel: Run or folder of a pixel decoder.

    Raises:
        FeatureSpaceMismatch: They were trained on different features.
        InvalidFile: One is something else, or a file is damaged.
        FAEError: The number of feature channels or the image sizes differ.
    """
    paints, stored = stored_pixel_decoder(pixel), stored_model("tokenizer", autoencoder)
    if stored is None:
        return
    parts = stored_parts(stored.folder)
    if paints is None:
        return
    if FEATURE_DECODER in parts:
        require_features(_config(stored.folder / FEATURE_DECODER, FeatureDecoderConfig), paints)
    if stored.spec is not None:
        require_image_shape(stored.spec, paints)


def require_direct(encoder: FAEEncoderConfig, pixel: str | Path, statistics: Path | None) -> None:
    """Check what `assemble_direct` is given, as far as files show it.

    Args:
        encoder: The encoder's configuration.
        pixel: Run or folder of a pixel decoder.
        statistics: A latent store of its features.

    Raises:
        FeatureSpaceMismatch: The decoder is for features of another backbone.
        FAEError: The encoder has an adapter to train, or `statistics` are not needed.
    """
    require_identity(encoder)
    decoder = stored_pixel_decoder(pixel)
    if decoder is None or decoder.features is None:
        return
    if statistics is not None and decoder.features.mean is not None:
        raise statistics_not_needed(pixel)
    name, other = encoder.backbone.name, decoder.features.backbone
    if name != other:
        raise FeatureSpaceMismatch({"backbone": (name, other)}, "encoder and pixel decoder")


def require_identity(encoder: FAEEncoderConfig) -> None:
    """Raise FAEError unless an encoder's latents are its features."""
    if encoder.adapter.type != "identity":
        raise FAEError("this encoder has an adapter to train: give the run of `fae train autoencoder` instead")


def statistics_not_needed(pixel: object) -> FAEError:
    """The error about statistics for features that are standardised. pixel: their decoder, as it was named."""
    return FAEError(f"{pixel} was trained on standardised features, which need no other statistics")


def require_features(rebuilt: FeatureDecoderConfig, expected: AnyPixelDecoderConfig) -> None:
    """Check that a pixel decoder takes what a feature decoder makes.

    Raises:
        FeatureSpaceMismatch: They were trained on different features.
        FAEError: The number of channels differs.
    """
    if rebuilt.features is not None and expected.features is not None:
        expected.features.require(rebuilt.features, "pixel decoder and feature decoder")
    elif rebuilt.feature_dim != expected.feature_dim:
        raise FAEError(
            f"the feature decoder makes {rebuilt.feature_dim} channels, the pixel decoder takes {expected.feature_dim}"
        )


def require_image_shape(spec: LatentSpec, pixel_decoder: AnyPixelDecoderConfig) -> None:
    """Check that a pixel decoder makes images of the size that latents stand for, of features on the latents' grid.

    Raises:
        FAEError: The sizes or the grids differ.
    """
    if pixel_decoder.image_shape != spec.image_shape:
        raise FAEError(
            f"the latents stand for images of {spec.image_shape} pixels, the pixel decoder paints "
            f"{pixel_decoder.image_shape}"
        )
    if pixel_decoder.grid != (spec.height, spec.width):
        raise FAEError(
            f"the latents and their features are on a grid of {(spec.height, spec.width)}, the pixel decoder takes "
            f"{pixel_decoder.grid}"
        )


def _config(folder: Path, kind: type[Any]) -> Any:
    """The settings in a model folder's config.json."""
    return parse_config(kind, read_json(folder / MODEL_CONFIG).get("config", {}), str(folder / MODEL_CONFIG))
