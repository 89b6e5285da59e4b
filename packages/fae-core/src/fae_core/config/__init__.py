"""Configurations: their base class (base) and limits of their numbers (limits). Importing this loads no pydantic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fae_core.config.base import Config as Config
    from fae_core.config.base import ConfigT as ConfigT
    from fae_core.config.base import parse_config as parse_config
    from fae_core.config.base import require_fields as require_fields

__all__ = ["Config", "ConfigT", "parse_config", "require_fields"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fae_core.config' has no attribute {name!r}")
    from fae_core.config import base

    return getattr(base, name)
