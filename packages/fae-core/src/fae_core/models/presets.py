"""Presets: YAML files, one per name, each in the package that owns the model; found across the installed packages."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

from fae_core.errors import FAEError, InvalidFile, UnknownName
from fae_core.files import read_yaml
from fae_core.folders import BUNDLE_PARTS
from fae_core.models.bundles import bundle_folders, read_bundle
from fae_core.plugins import load_plugins

BUNDLE = "bundle"  # the kind of what is no preset but a trained model
DESCRIPTION = ("description", "parameters", "paper", "spec")  # sections that are not settings of a run
RENAMED = {"mmdit-256-t5": "mmdit-256"}  # presets that went away, for one release


@functools.cache
def preset_files() -> dict[str, Path]:
    """Every preset of the installed packages: name -> file. Raises FAEError where two presets have the same name."""
    files: dict[str, Path] = {}
    for package in sorted({"fae_core", *(point.value for point in load_plugins("fae.presets").values())}):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for path in sorted((Path(spec.origin).parent / "presets").glob("*.yaml")):
            if path.stem in files:
                raise FAEError(f"two presets are named {path.stem}: {files[path.stem]} and {path}")
            files[path.stem] = path
    return files


def load_preset(name: str, kind: str | None = None) -> dict[str, Any]:
    """The content of a preset.

    Args:
        name: Of the preset.
        kind: The model_type that the caller builds; None accepts any.

    Returns:
        `model_type`, and where given `description`, `model`, `training`, `spec`, `parameters`, `paper`.

    Raises:
        UnknownName: Where no preset of this kind has the name; suggests the nearest names.
        InvalidFile: Where it is a path, which no preset has for a name.
        FAEError: Where the preset has another name now, which the message gives.
    """
    if "/" in name:
        there = "is a path, not the name of a preset; --config takes a file of settings"
        raise InvalidFile(f"{name} {there if Path(name).exists() else 'does not exist'}")
    files = preset_files()
    if name in RENAMED and name not in files:
        raise FAEError(f"the preset {name} is named {RENAMED[name]} now")
    preset = read_preset(files[name]) if name in files else {}
    if name in files and (kind is None or preset["model_type"] == kind):
        return preset
    same = [n for n, path in files.items() if kind is None or read_yaml(path).get("model_type") == kind]
    raise UnknownName(f"{kind} preset" if name in files else "preset", name, same)


def list_presets(kind: str | None = None) -> list[str]:
    """Names for `from_preset` and `fae train --preset`, of every installed package, in order.

    Args:
        kind: A model type, such as "lightningdit" or "fae-encoder"; "bundle" gives the trained models that packages
            carry, for `load_tokenizer`, `load_generator` and `fae sample --model`; None gives every preset.

    Raises:
        UnknownName: For another kind; suggests the nearest.
    """
    return sorted(presets_of_kind(kind))


def presets_of_kind(kind: str | None) -> dict[str, dict[str, Any]]:
    """Contents by name, as `list_presets` chooses them; a bundle has model_type, description and parameters."""
    if kind == BUNDLE:
        return {name: _of_bundle(read_bundle(folder)) for name, folder in bundle_folders().items()}
    contents = {name: read_preset(path) for name, path in preset_files().items()}
    kinds = {BUNDLE} | {content["model_type"] for content in contents.values()}
    if kind is not None and kind not in kinds:
        raise UnknownName("model type", kind, kinds)
    return {name: content for name, content in contents.items() if kind in (None, content["model_type"])}


def _of_bundle(record: dict[str, Any]) -> dict[str, Any]:
    parameters = sum(record[part].get("parameters", 0) for part in BUNDLE_PARTS)
    return {"model_type": BUNDLE, "description": record.get("description", ""), "parameters": parameters}


def read_preset(path: Path) -> dict[str, Any]:
    """The content of a preset's file. Raises InvalidFile where model_type is missing, or a section has another type."""
    preset = read_yaml(path)
    if not isinstance(preset.get("model_type"), str):
        raise InvalidFile(f"{path} must name its model_type")
    for part in ("model", "training", "spec", "paper"):
        if not isinstance(preset.get(part, {}), dict):
            raise InvalidFile(f"{path}: {part} must be a mapping")
    if not isinstance(preset.get("description", ""), str) or type(preset.get("parameters", 0)) is not int:
        raise InvalidFile(f"{path}: description is a text, and parameters a whole number")
    return preset
