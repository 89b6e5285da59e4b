"""What the commands of the training stages share: where settings come from, and what they are built into."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fae_core.cli.options import check_places
from fae_core.cli.settings import parse_overrides, require_mappings, resolve_settings
from fae_core.config import merge
from fae_core.errors import FAEError, require_known

if TYPE_CHECKING:
    from fae_core.cli.defaults import Made
    from fae_core.images import ImageSource
    from fae_core.training.compared import GivenSection
    from fae_encoder import FAEEncoder
    from fae_encoder.config import FAEEncoderConfig
    from fae_encoder.store.feature_store import FeatureStore

_COMMON = ("model", "training", "encoder")


def stage_settings(
    kind: str,
    stages: tuple[str, ...],
    stage: str,
    preset: str | None,
    config: Path | None,
    overrides: list[str] | None,
    training: Mapping[str, int | None],
    encoder: str | None = None,
) -> dict[str, Any]:
    """{"model", "training", "encoder", <stage>} for one stage.

    A preset of a model may hold a section for each stage that trains it; its `training` goes over the preset's own.
    Then come the command's own options, then --set.

    Args:
        kind: the model_type of the presets.
        stages: the stages that train such a model.
        stage: the one to train.
        preset: as in `resolve_settings`.
        config: as in `resolve_settings`.
        overrides: as in `resolve_settings`.
        training: what the command's own options say of the section `training`; None for an option that was not given.
        encoder: what the command was told to use; the preset's encoder section is then left out.

    Raises:
        UnknownName: a section is none of any stage, or `--set` names one that this stage does not read.
    """
    settings = resolve_settings(preset, config, None, kind, sections=(*_COMMON, *stages))
    if encoder is not None:
        settings["encoder"] = {"preset": encoder}
    section = dict(settings.get(stage, {}))
    require_mappings(section, ("training",))
    settings["training"] = merge(settings.get("training", {}), section.pop("training", {}))
    settings["training"].update({name: value for name, value in training.items() if value is not None})
    settings[stage] = section
    chosen, sections = parse_overrides(overrides), (*_COMMON, stage)
    require_known("section of the settings", chosen, sections)
    settings = require_mappings(merge(settings, chosen), sections)
    return {key: settings.get(key, {}) for key in sections}


def check_encoder(
    settings: dict[str, Any], weights: str | None = None, features: Path | None = None
) -> FAEEncoderConfig:
    """The configuration of an encoder section, before torch is imported.

    Args:
        settings: `preset`, the name of one or an encoder's or FAE's folder, and fields of FAEEncoderConfig over it.
        weights: of the backbone; None for the preset's own choice.
        features: what --features names; None without any.

    Raises:
        UnknownName: there is no such preset.
        InvalidSettings: a field is unknown or out of range.
        InvalidFile: there is no encoder in the folder.
        FAEError: no encoder is named, fields would change one that is read from a folder, or the features are of
            another backbone.
    """
    from fae_encoder.config import preset_config, require_features_of, stored_config

    source, fields = _named(settings)
    if not Path(source).is_dir():
        config = preset_config(source, fields, "default" if weights is None else weights)
    else:
        config = stored_config(source, weights)
    assert config is not None  # a folder is no hub repository
    check_places(features=features)
    if features is not None:
        require_features_of(features, config)
    return config


def _named(settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The preset or folder of an encoder section, and the fields over it. Raises FAEError as `check_encoder`."""
    fields = dict(settings)
    source = fields.pop("preset", None)
    if source is None:
        raise FAEError("no encoder is named: pass --encoder with a preset (`fae presets fae-encoder`) or a folder")
    if fields and Path(source).is_dir():
        raise FAEError(f"an encoder's folder is taken as it is; encoder.{next(iter(fields))} cannot be changed")
    return source, fields


def build_encoder(settings: dict[str, Any], weights: str | None) -> FAEEncoder:
    """The encoder of an encoder section.

    Args:
        settings: as of `check_encoder`.
        weights: of the backbone; None for the preset's own choice.

    Raises:
        FAEError: it cannot be built.
    """
    from fae_encoder import FAEEncoder

    source, fields = _named(settings)
    if Path(source).is_dir():
        return FAEEncoder.from_pretrained(source, weights="default" if weights is None else weights)
    chosen = {} if weights is None else {"weights": None if weights == "random" else weights}
    return FAEEncoder.from_preset(source, **chosen, **fields)


def named_features(settings: dict[str, Any]) -> tuple[str, bool] | None:
    """The backbone of an encoder section and whether its features are standardised, before anything is loaded.

    Args:
        settings: as of `build_encoder`.

    Returns:
        Both, as the preset and the fields over it say; None for an encoder that is read from a folder.

    Raises:
        UnknownName: there is no such preset.
    """
    from fae_core.models.presets import load_preset

    source = settings.get("preset")
    if source is None or Path(source).is_dir():
        return None
    model = merge(load_preset(source, "fae-encoder").get("model", {}), settings)
    return str(model.get("backbone", {}).get("name")), bool(model.get("standardize_features", False))


def encoder_at_hand(settings: dict[str, Any], weights: str | None) -> Made:
    """What an encoder section makes, as `fae_core.cli.defaults.made_for` has it; nothing is read or fetched for it.

    Args:
        settings: As of `build_encoder`.
        weights: As of `build_encoder`.

    Raises:
        FAEError: As `build_encoder`.
    """
    import torch

    with torch.device("meta"):
        encoder = build_encoder(settings, weights)
    features = (encoder.backbone.dim, *encoder.backbone.grid)
    return {"features": features, "images": encoder.spec.image_shape, "backbone": encoder.spec.backbone}


def known_features(folder: Path | None, encoder: FAEEncoder, source: ImageSource) -> FeatureStore | None:
    """What --features names; None under torch.device("meta"), where nothing can be compared.

    Raises FAEError where it does not fit the encoder or the images.
    """
    from fae_core.models.build import on_meta
    from fae_encoder.store.feature_store import FeatureStore

    return None if folder is None or on_meta() else FeatureStore(folder, encoder, source)


def comparable_encoder(config: FAEEncoderConfig) -> GivenSection:
    """What is set of an encoder, to compare with the record of a run: its class, and fields.

    Of the backbone it is the name, since the rest of what is recorded depends on what its library resolves.
    """
    fields = config.model_dump(exclude={"backbone"}, exclude_unset=True)
    return type(config), {**fields, "backbone": {"name": config.backbone.name}}


def without(settings: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A section of the settings without those that training puts in itself."""
    return {name: value for name, value in settings.items() if name not in names}


def recorded(config: Any) -> Any:
    """A configuration for config.yaml."""
    return config.model_dump(mode="json")
