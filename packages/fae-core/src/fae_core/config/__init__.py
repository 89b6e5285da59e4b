"""Configurations: their base class (base), limits of their numbers (limits), one over another (merging).

Importing this loads no pydantic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names

if TYPE_CHECKING:
    from fae_core.config.base import Config as Config
    from fae_core.config.base import ConfigT as ConfigT
    from fae_core.config.base import parse_config as parse_config
    from fae_core.config.base import require_fields as require_fields
    from fae_core.config.merging import merge as merge

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names]
