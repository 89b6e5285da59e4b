"""Where a command's settings come from: a preset, then a YAML file, then --set; later ones win."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fae_core.config import merge
from fae_core.errors import FAEError, require_known
from fae_core.files import parse_yaml, read_yaml
from fae_core.models.presets import DESCRIPTION, load_preset

_SECTIONS = ("model", "training", "preview")
_MOST_PARTS = 16  # of a key of --set


def resolve_settings(
    preset: str | None,
    config: Path | None,
    overrides: list[str] | None,
    kind: str | None = None,
    *,
    sections: Collection[str] | None = None,
) -> dict[str, Any]:
    """The settings of a command, {"model": ..., "training": ..., ...}, merged from the three sources.

    Args:
        preset: name of a preset, the lowest source; None for none.
        config: a YAML file over it, in a preset's form or a run's own config.yaml.
        overrides: `--set KEY=VALUE` over both, later ones over earlier.
        kind: the model_type that the settings must be of.
        sections: those that the command reads, each a mapping; any other is refused, with the nearest name. None where
            the keys are known only to the reader of an original's checkpoint.

    Raises:
        UnknownName: a section or preset does not exist.
        InvalidFile: the YAML file cannot be read.
        FAEError: the settings are of another model, or `--set` cannot be read.
    """
    given = read_yaml(config) if config else {}
    if is_record(given) and sections is not None:  # what it records besides is no setting
        given = {key: value for key, value in given.items() if key in ("model_type", *sections)}
    settings = merge(load_preset(preset, kind) if preset is not None else {}, given)
    if preset is not None or sections is not None:  # a file in a preset's form may describe itself, too
        settings = {key: value for key, value in settings.items() if key not in DESCRIPTION}
    settings = merge(settings, parse_overrides(overrides))
    if sections is not None:
        require_known("section of the settings", settings, ("model_type", *sections))
    if settings.get("model_type", kind) != kind and kind is not None:
        raise FAEError(f"the settings are those of a {str(settings['model_type'])[:40]!r}, not of a {kind}")
    return require_mappings(settings, sections or _SECTIONS)


def is_record(settings: Mapping[str, Any]) -> bool:
    """Whether settings are those that a run recorded, its own config.yaml."""
    return "command" in settings


def parse_overrides(overrides: list[str] | None) -> dict[str, Any]:
    """All of --set as one mapping, later ones over earlier. Raises FAEError as `parse_override` does."""
    settings: dict[str, Any] = {}
    for override in overrides or []:
        settings = merge(settings, parse_override(override))
    return settings


def parse_variables(overrides: list[str] | None, declared: Mapping[str, Any]) -> dict[str, Any]:
    """All of --set of a recipe's variables as one mapping, later ones over earlier.

    A variable that is a text in the recipe takes what follows "=" as it is, so that every name of a folder can be
    given; any other is YAML.

    Args:
        overrides: `--set NAME=VALUE`.
        declared: the recipe's own values by name.

    Raises:
        FAEError: as `parse_override`, or a number or a boolean is given something else; null counts as any of these.
    """
    settings: dict[str, Any] = {}
    for override in overrides or []:
        name, equals, text = override.partition("=")
        name = name.strip()
        known = declared.get(name)
        if isinstance(known, str) and equals:
            settings[name] = text
            continue
        settings = merge(settings, parse_override(override))
        value = settings.get(name)
        if isinstance(known, bool):
            fits, kind = isinstance(value, bool), "true or false"
        else:
            fits, kind = not isinstance(known, int | float) or _is_number(value), "a number"
        if not fits and value is not None:
            raise FAEError(f"--set {name}: this variable of the recipe is {kind}, not {text[:60]!r}")
    return settings


def _is_number(value: Any) -> bool:
    """Whether a value of YAML is a number; YAML takes 1e-3 for a text."""
    with suppress(ValueError, OverflowError):
        return not isinstance(value, bool) and isinstance(value, int | float | str) and math.isfinite(float(value))
    return False


def require_mappings(settings: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The settings; raises FAEError where one of the named sections is there and is no mapping."""
    for name in names:
        if not isinstance(settings.get(name, {}), dict):
            raise FAEError(f"the section {name} must be a mapping of settings, not {str(settings[name])[:40]!r}")
    return settings


def parse_override(text: str) -> dict[str, Any]:
    """ "training.steps=500" -> {"training": {"steps": 500}}; the value is YAML. Raises FAEError for anything else."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts) or len(parts) > _MOST_PARTS:
        raise FAEError(f"--set takes KEY=VALUE, such as training.steps=500, not {text[:60]!r}")
    try:
        parsed = parse_yaml(value)
    except ValueError as error:
        shown = " ".join(key.split())[:60]  # on one line
        raise FAEError(f"--set {shown}: {value[:60]!r} is not a YAML value ({error})") from None
    for part in reversed(parts):
        parsed = {part: parsed}
    return parsed
