"""Entry points of the installed packages, by group; objects are loaded only on request."""

from __future__ import annotations

import functools
import importlib.util
import tomllib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

# The packages of this repository, for source trees on PYTHONPATH that are not installed.
_OWN_PACKAGES = ("fae_core", "fae_encoder", "fae_decoders", "fae_diffusion", "fae_flow", "fae_eval")


@functools.cache
def load_plugins(group: str) -> dict[str, EntryPoint]:
    """Entry points of a group by name; those of source trees that are not installed come from pyproject.toml."""
    found = {point.name: point for point in _source_tree_points(group)}
    found.update({point.name: point for point in entry_points(group=group)})
    return found


def is_missing_own_package(module: object) -> bool:
    """Whether a name is that of a package of this repository that is not installed."""
    return module in _OWN_PACKAGES and importlib.util.find_spec(str(module)) is None


def is_own_package(module: object) -> bool:
    """Whether a name is that of a package of this repository."""
    return module in _OWN_PACKAGES


def own_versions() -> dict[str, str]:
    """The versions of this repository's packages that are present, without importing them."""
    versions = {}
    for package in _OWN_PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        source = (Path(spec.origin).parent / "_version.py").read_text(encoding="utf-8")
        versions[package.replace("_", "-")] = source.partition('"')[2].partition('"')[0]
    return versions


def _source_tree_points(group: str) -> list[EntryPoint]:
    """Entry points that source trees declare in their pyproject.toml."""
    points = []
    for package in _OWN_PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        pyproject = Path(spec.origin).parents[2] / "pyproject.toml"
        if not pyproject.is_file():
            continue
        project = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {})
        if project.get("name", "").replace("-", "_") != package:
            continue
        declared = project.get("entry-points", {}).get(group, {})
        points += [EntryPoint(name, value, group) for name, value in declared.items()]
    return points
