"""What tests of any package use: a conformance suite for generators (needs pytest), shared data, checks of kernels."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fae_core.testing.conformance import GeneratorConformance as GeneratorConformance
    from fae_core.testing.conformance import toy_latents as toy_latents
    from fae_core.testing.shared import shared_folder as shared_folder

_HOMES = {"GeneratorConformance": "conformance", "toy_latents": "conformance", "shared_folder": "shared"}

__all__ = ["GeneratorConformance", "shared_folder", "toy_latents"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fae_core.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fae_core.testing.{_HOMES[name]}"), name)
