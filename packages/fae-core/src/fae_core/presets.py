"""Presets: YAML files inside the package that owns a model, one per name, found across the installed packages."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

from fae_core.errors import FAEError, UnknownName
from fae_core.files import read_yaml
from fae_core.plugins import load_plugins


@functools.cache
def preset_files() -> dict[str, Path]:
    """Every preset of the installed packages: name -> file. Raises FAEError where two packages claim one name."""
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
    """A preset's content: `description`, `model_type`, `model`, and where given `training`, `parameters`, `paper`.

    kind: the model_type that the caller builds. Raises UnknownName (with the nearest names) for another or no preset.
    """
    files = preset_files()
    if name not in files:
        candidates = [n for n in files if kind is None or read_yaml(files[n]).get("model_type") == kind]
        raise UnknownName("preset", name, candidates)
    preset = read_yaml(files[name])
    if kind is not None and preset.get("model_type") != kind:
        same = [n for n, path in files.items() if read_yaml(path).get("model_type") == kind]
        raise UnknownName(f"{kind} preset", name, same)
    return preset
