"""Keeping secrets out of what is written down: logs, error lines, config.yaml, provenance."""

from __future__ import annotations

import re
from typing import Any

_ADDRESS = re.compile(
    r"(?P<scheme>[a-zA-Z][\w+.-]*://)(?P<user>[^\s/@'\"]+@)?(?P<path>[^\s?#'\"]*)(?P<query>[?#][^\s'\"]*)?"
)
_HUB_TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{16,}")


def redact(text: str) -> str:
    """`text` with the user part and the query of every address, and every Hugging Face token, replaced by ***.

    Signed addresses carry their signature in the query, and passwords stand before the @.
    """
    return _HUB_TOKEN.sub(r"\1_***", _ADDRESS.sub(_bare, text))


def redact_values(value: Any) -> Any:
    """The same for every string inside mappings and lists."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(item) for item in value]
    return value


def _bare(found: re.Match[str]) -> str:
    user = "***@" if found["user"] else ""
    query = f"{found['query'][0]}***" if found["query"] else ""
    return f"{found['scheme']}{user}{found['path']}{query}"
