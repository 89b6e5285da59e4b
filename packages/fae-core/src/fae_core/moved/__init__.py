"""Modules under their names before version 0.2: importing one warns, and forwards to the modules that replace it.

This package will be removed with the next release.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from fae_core.moved.names import MOVED, RENAMED


class _Moved:
    """A finder for modules that no other finder knows, and their loader."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        return ModuleSpec(name, self) if name in MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        old, homes = module.__name__, MOVED[module.__name__]
        text = f"{old} is now {' and '.join(homes)}; the old name goes with the next release"
        warnings.warn(text, DeprecationWarning, stacklevel=2)

        def find(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(f"module {old!r} has no attribute {name!r}")
            for home in homes:
                found = importlib.import_module(home)
                for known in (name, RENAMED.get(name, name)):
                    if hasattr(found, known):
                        return getattr(found, known)
            raise AttributeError(f"module {old!r} has no attribute {name!r}")

        module.__dict__["__getattr__"] = find


sys.meta_path.append(_Moved())
