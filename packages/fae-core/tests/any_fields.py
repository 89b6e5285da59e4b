"""What must hold of every configuration, for the tests of this package and of all packages."""

from __future__ import annotations

import json
import math
from typing import Any

from fae_core.config import Config, parse_config
from fae_core.errors import InvalidFile


def finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    return all(map(finite, value)) if isinstance(value, list) else not isinstance(value, float) or math.isfinite(value)


def check_fields(config_class: type[Config], fields: dict[str, Any]) -> None:
    """Any fields are a finite config that survives storing, with all that was given, or one line of complaint."""
    try:
        config = parse_config(config_class, fields, "here")
    except InvalidFile as error:
        assert str(error).startswith("here: ") and "\n" not in str(error) and len(str(error)) < 3000
        return
    stored = config.model_dump(mode="json")
    assert finite(stored) and fields.keys() <= stored.keys()
    assert parse_config(config_class, json.loads(json.dumps(stored)), "stored") == config
