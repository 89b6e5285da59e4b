"""Where a command's settings come from: a preset, then a YAML file, then --set; later ones win."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fae_core.errors import FAEError
from fae_core.files import parse_yaml, read_yaml
from fae_core.presets import load_preset

_SECTIONS = ("model", "training", "preview")
_MOST_PARTS = 16  # of a key of --set


def resolve_settings(
    preset: str | None, config: Path | None, overrides: list[str] | None, kind: str | None = None
) -> dict[str, Any]:
    """{"model": ..., "training": ..., ...} merged from the three sources.

    kind: the model_type that the preset must have. Raises UnknownName, CheckpointError or FAEError, one line each.
    """
    settings: dict[str, Any] = {}
    if preset is not None:
        described = load_preset(preset, kind)
        # What describes the preset, rather than the run, stays behind.
        settings = {key: value for key, value in described.items() if key not in ("description", "parameters", "paper")}
    if config is not None:
        settings = merge(settings, read_yaml(config))
    for override in overrides or []:
        settings = merge(settings, parse_override(override))
    return require_sections(settings, _SECTIONS)


def require_sections(settings: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The settings; raises FAEError where one of the named sections is there and is no mapping."""
    for name in names:
        if not isinstance(settings.get(name, {}), dict):
            raise FAEError(f"the section {name} must be a mapping of settings, not {str(settings[name])[:40]!r}")
    return settings


def merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`top` over `base`, mapping by mapping."""
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def parse_override(text: str) -> dict[str, Any]:
    """ "training.steps=500" -> {"training": {"steps": 500}}; the value is YAML. Raises FAEError for anything else."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts) or len(parts) > _MOST_PARTS:
        raise FAEError(f"--set takes KEY=VALUE, such as training.steps=500, not {text[:60]!r}")
    try:
        parsed = parse_yaml(value)
    except ValueError as error:
        raise FAEError(f"--set {key}: {value[:60]!r} is not a YAML value ({error})") from None
    for part in reversed(parts):
        parsed = {part: parsed}
    return parsed
