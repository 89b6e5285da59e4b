"""What the commands of the training stages share: where settings come from, and what they are built into."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fae_core.cli.settings import merge, parse_override, resolve_settings
from fae_core.errors import FAEError, UnknownName

if TYPE_CHECKING:
    from fae_core.images import ImageSource
    from fae_encoder import FAEEncoder

_COMMON = ("model_type", "model", "spec", "training", "encoder")


def stage_settings(
    kind: str,
    stages: tuple[str, ...],
    stage: str,
    preset: str | None,
    config: Path | None,
    overrides: list[str] | None,
    training: dict[str, int | None],
) -> dict[str, Any]:
    """{"model", "training", "encoder", <stage>} for one stage.

    A preset of a model may hold a section for each stage that trains it; its `training` goes over the preset's own. Then come
    the command's own options, then --set. Raises UnknownName for a section that no stage knows.
    """
    settings = resolve_settings(preset, config, None, kind)
    section = dict(settings.get(stage, {}))
    settings["training"] = merge(settings.get("training", {}), section.pop("training", {}))
    settings["training"].update({name: value for name, value in training.items() if value is not None})
    settings[stage] = section
    for override in overrides or []:
        settings = merge(settings, parse_override(override))
    for key in settings:
        if key not in (*_COMMON, *stages):
            raise UnknownName("section of the settings", key, (*_COMMON[1:], *stages))
    return {key: settings.get(key, {}) for key in ("model", "training", "encoder", stage)}


def is_first_process() -> bool:
    """Whether this process speaks to the user: the only one, or torchrun's first."""
    return os.environ.get("RANK", "0") == "0"


def check_run_folder(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise OutputExists for a folder in use before the data are read and the encoder is built, which can take a while."""
    from fae_core.files import require_new_folder
    from fae_core.training.journal import CONFIG_FILE

    if is_first_process():  # by the time another one looks, the first may have begun the run
        require_new_folder(out, overwrite=overwrite or resume, resumable=(out / CONFIG_FILE).is_file())


def readable_source(data: str, split: str | None) -> ImageSource:
    """The images that decode; the others are counted and named in the log."""
    from fae_core.images import open_images, readable_images

    source = open_images(data, split)
    tell = logging.getLogger("fae").warning if is_first_process() else lambda _: None
    readable = readable_images(source, tell, threads=2)
    return source if len(readable) == len(source) else source.select(readable)


def build_encoder(named: str | None, settings: dict[str, Any], weights: str | None) -> FAEEncoder:
    """The encoder of --encoder (a preset, or an encoder's or FAE's folder), or of the settings' encoder section.

    The section holds `preset` and fields of FAEEncoderConfig that replace the preset's.
    """
    from fae_encoder import FAEEncoder

    fields = dict(settings)
    preset = fields.pop("preset", None)
    source = named or preset
    if source is None:
        raise FAEError("no encoder is named: pass --encoder with a preset (`fae presets fae-encoder`) or a folder")
    if Path(source).is_dir():
        if fields and named is None:
            raise FAEError("the encoder section changes a preset; an encoder's folder is taken as it is")
        return FAEEncoder.from_pretrained(source, **({} if weights is None else {"weights": weights}))
    return FAEEncoder.from_preset(source, **({} if weights is None else {"weights": _none(weights)}), **fields)


def seeded(seed: int, build: Any) -> Any:
    """What `build()` makes with initial weights fixed by the seed, leaving the global generator as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def recorded(config: Any) -> Any:
    """A configuration for config.yaml."""
    return config.model_dump(mode="json")


def _none(weights: str) -> str | None:
    return None if weights == "random" else weights
