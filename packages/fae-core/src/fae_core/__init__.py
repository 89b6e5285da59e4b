"""fae-core: what every FAE package shares. Importing it is light; torch is loaded when a name needs it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import fae_core.moved  # noqa: F401 (earlier names of modules)
from fae_core._version import __version__

if TYPE_CHECKING:
    from fae_core import ops as ops
    from fae_core.errors import FAEError as FAEError
    from fae_core.errors import LatentSpecMismatch as LatentSpecMismatch
    from fae_core.latent_store import LatentStore as LatentStore
    from fae_core.models.load import load_decoder as load_decoder
    from fae_core.models.load import load_generator as load_generator
    from fae_core.models.load import load_tokenizer as load_tokenizer
    from fae_core.protocols import Decoder as Decoder
    from fae_core.protocols import Generator as Generator
    from fae_core.protocols import Tokenizer as Tokenizer
    from fae_core.random import SlotRandom as SlotRandom
    from fae_core.spec import LatentSpec as LatentSpec

_HOMES = {
    "FAEError": "fae_core.errors",
    "LatentSpecMismatch": "fae_core.errors",
    "Decoder": "fae_core.protocols",
    "Generator": "fae_core.protocols",
    "Tokenizer": "fae_core.protocols",
    "load_decoder": "fae_core.models.load",
    "load_generator": "fae_core.models.load",
    "load_tokenizer": "fae_core.models.load",
    "LatentSpec": "fae_core.spec",
    "LatentStore": "fae_core.latent_store",
    "SlotRandom": "fae_core.random",
}

__all__ = [*_HOMES, "__version__", "ops"]


def __getattr__(name: str) -> Any:
    if name == "ops":
        return importlib.import_module("fae_core.ops")
    if name not in _HOMES:
        raise AttributeError(f"module 'fae_core' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
