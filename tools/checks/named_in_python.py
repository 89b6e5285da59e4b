"""Whether what a Python block names exists: modules and presets of this project."""

from __future__ import annotations

import ast
import re


def python_findings(text: str) -> list[str]:
    """What is wrong with the imports and presets of a Python block.

    Args:
        text: Of the block.
    """
    from release import importable

    from fae_core.models.bundles import bundle_folders
    from fae_core.models.presets import preset_files

    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        return [f"is not Python: {error.msg}"]
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fae_"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("fae_")]
        found += [f"there is no {name}" for name in names if not importable(name)]
    known = preset_files().keys() | bundle_folders().keys()
    named = re.findall(r"from_preset\(\s*\"([\w.-]+)\"", text)
    return found + [f"there is no preset {name}" for name in named if name not in known]
