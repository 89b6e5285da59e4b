"""HTML and SVG from templates. Values are escaped and without secrets, since records may come from anyone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fae_core.redact import redact


def templates(folder: Path) -> Environment:
    """The templates in a folder. What they show is escaped, unless it is Markup that a template made.

    Args:
        folder: holds the files.
    """
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_public,
    )


def _public(value: Any) -> Any:
    return value if isinstance(value, Markup) else redact(str(value))
