"""Reading small files so that nothing hostile is believed; beside it, what writes files and folders (see `writing`)."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, ClassVar

import yaml

from fae_core.errors import CheckpointError
from fae_core.lock import hold
from fae_core.writing import (
    begun_folder,
    disk_errors,
    is_empty,
    recover_folder,
    remove_folder,
    remove_leftovers,
    replace_folder,
    require_new_file,
    require_new_folder,
    staged_file,
    staged_folder,
    sync_folder,
    write_atomic,
)

__all__ = [
    "CHECKSUM",
    "begun_folder",
    "disk_errors",
    "hold",
    "is_empty",
    "parse_yaml",
    "read_json",
    "read_json_value",
    "read_yaml",
    "recover_folder",
    "remove_folder",
    "remove_leftovers",
    "replace_folder",
    "require_new_file",
    "require_new_folder",
    "sealed",
    "sha256_file",
    "staged_file",
    "staged_folder",
    "sync_folder",
    "unsealed",
    "write_atomic",
]

CHECKSUM = "checksum"
_YAML_DEPTH = 64
_YAML_OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_YAML_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)


def read_json(path: str | Path, *, max_bytes: int = 64 * 2**20) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError where it is absent, too large, too deep, or not finite JSON."""
    return _require_mapping(read_json_value(path, max_bytes=max_bytes), path)


def read_json_value(path: str | Path, *, max_bytes: int = 64 * 2**20) -> Any:
    """Any JSON value from a file; raises as `read_json` does."""
    text = _read_text(path, max_bytes)
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {_reason(error)}") from None


def read_yaml(path: str | Path, *, max_bytes: int = 2**18) -> dict[str, Any]:
    """A YAML mapping from a file, as `parse_yaml` reads it. Raises CheckpointError as `read_json` does."""
    try:
        value = parse_yaml(_read_text(path, max_bytes))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid YAML: {error}") from None
    return _require_mapping(value if value is not None else {}, path)


def parse_yaml(text: str) -> Any:
    """Any YAML value made of mappings with text as keys, lists, text, finite numbers, booleans and null; dates stay text.

    Raises ValueError, one line, for anything else: aliases, tags, deep nesting.
    """
    try:
        _check_yaml(text)
        return _PlainLoader(text).get_single_data()
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(_reason(error)) from None


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """A JSON record with the checksum of what it says, which `unsealed` compares when it is read."""
    return {**record, CHECKSUM: _checksum(record)}


def unsealed(record: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """A record that `sealed` made, without its checksum. Raises CheckpointError where it says something else now; one without
    a checksum, as earlier versions wrote them, is taken as it is."""
    said = {key: value for key, value in record.items() if key != CHECKSUM}
    if CHECKSUM in record and record[CHECKSUM] != _checksum(said):
        raise CheckpointError(f"{path} is damaged, or was changed by hand: its checksum is not that of what it says")
    return said


def _checksum(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_text(path: str | Path, max_bytes: int) -> str:
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise CheckpointError(f"{path} has {size} bytes; at most {max_bytes} are read")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder, not a file") from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None


def _require_mapping(value: Any, path: str | Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a mapping, not a {type(value).__name__}")
    return value


class _PlainLoader(yaml.SafeLoader):
    """yaml.SafeLoader without dates, non-finite numbers and keys that are not text."""

    yaml_implicit_resolvers: ClassVar[dict] = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        mapping = super().construct_mapping(node, deep)
        wrong = next((key for key in mapping if not isinstance(key, str)), None)
        if wrong is not None or None in mapping:
            raise ValueError(f"the key {str(wrong)[:40]} is not text; put it in quotes")
        return mapping

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        value = super().construct_yaml_float(node)
        return value if math.isfinite(value) else _refuse_constant(node.value[:20])


_PlainLoader.add_constructor("tag:yaml.org,2002:float", _PlainLoader.construct_yaml_float)


def _check_yaml(text: str) -> None:
    """Raise ValueError for what a few lines can make cost hours or gigabytes, and for tags, which ask for other types."""
    depth = 0
    for token in yaml.scan(text):
        if isinstance(token, yaml.AliasToken):
            raise ValueError("aliases are not allowed")
        if isinstance(token, yaml.TagToken):
            raise ValueError("tags are not allowed")
        depth += isinstance(token, _YAML_OPENING) - isinstance(token, _YAML_CLOSING)
        if depth > _YAML_DEPTH:
            raise ValueError("nested too deeply")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"the number {name} is not allowed")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse_constant(digits[:20])


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
