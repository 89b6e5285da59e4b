"""Reading small documents (JSON, YAML, text) safely: the result is plain data or a one-line error.

Only regular files are read: a pipe would block, a device never ends.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

import yaml

from fae_core.errors import FAEError, InvalidFile

MOST_BYTES = 64 * 2**20
_MOST_DEPTH = 64  # of nested lists and mappings
_MOST_TOKENS = 30_000  # of YAML, which is slow to parse: this many take a second
_MOST_DIGITS = 4300  # of a number, as in Python
_YAML_OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_YAML_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: str | Path, *, max_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """A JSON object from a file.

    Args:
        path: The file.
        max_bytes: The largest size that is read.

    Raises:
        InvalidFile: Where the file is absent, too large, too deeply nested, or not JSON of finite numbers.
    """
    return _require_mapping(read_json_value(path, max_bytes=max_bytes), path)


def read_json_value(path: str | Path, *, max_bytes: int = MOST_BYTES) -> Any:
    """Any JSON value from a file; arguments and errors are those of `read_json`.

    Args:
        path: The file.
        max_bytes: The largest size that is read.
    """
    text = read_text(path, max_bytes=max_bytes)
    try:
        return parse_json(text)
    except ValueError as error:
        raise InvalidFile(f"{path} is not valid JSON: {error}") from None


def parse_json(text: str) -> Any:
    """Any JSON value of finite numbers whose objects name each key once. Raises ValueError for other text."""
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_mapping_of_pairs
        )
        _check_depth(value)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # raises for a lone surrogate, which could not be written
    except (ValueError, RecursionError) as error:
        raise ValueError(_reason(error)) from None
    return value


def read_yaml(path: str | Path, *, max_bytes: int = 2**18) -> dict[str, Any]:
    """A YAML mapping from a file, as `parse_yaml` reads it; arguments and errors are those of `read_json`.

    Args:
        path: The file.
        max_bytes: The largest size that is read.
    """
    text = read_text(path, max_bytes=max_bytes)
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise InvalidFile(f"{path} is not valid YAML: {error}") from None
    return _require_mapping(value if value is not None else {}, path)


def parse_yaml(text: str) -> Any:
    """Any YAML value made of mappings with text keys, lists, text, finite numbers, booleans and null; dates stay text.

    Raises ValueError for anything else: aliases, tags, deep nesting, a repeated key.

    Args:
        text: The document.
    """
    try:
        _check_yaml(text)
        return _PlainLoader(text).get_single_data()
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(_reason(error)) from None


def read_text(path: str | Path, *, max_bytes: int = MOST_BYTES, error: type[FAEError] = InvalidFile) -> str:
    """The text of a regular file in UTF-8, with or without a byte-order mark.

    Args:
        path: The file.
        max_bytes: The largest size that is read.
        error: The type of error that is raised.

    Raises:
        FAEError: `error`, where the file is absent, not a regular file, too large, or not UTF-8.
    """
    with open_regular(path, error) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise error(f"{path} has {size} bytes; at most {max_bytes} are read")
        try:
            return file.read(max_bytes).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise error(f"{path} is not UTF-8 text") from None
        except OSError as reason:  # a damaged disk, or a file of /proc that cannot be read
            raise error(f"cannot read {path}: {reason.strerror}") from None


def require_regular(path: str | Path, error: type[FAEError] = InvalidFile) -> None:
    """Raise `error` unless a path is a regular file, for other readers that would block on a pipe."""
    with open_regular(path, error):
        pass


@contextmanager
def open_regular(path: str | Path, error: type[FAEError] = InvalidFile) -> Iterator[BufferedReader]:
    """A regular file, open for reading. Raises `error` for a folder, pipe or device, or a file that cannot be read."""
    try:
        # Without O_NONBLOCK opening a pipe would block, before its type is known.
        file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    except FileNotFoundError:
        raise error(f"{path} does not exist") from None
    except IsADirectoryError:
        raise error(f"{path} is a folder, not a file") from None
    except (OSError, ValueError) as reason:  # ValueError: a name that no file can have
        raise error(f"cannot read {str(path)!r}: {getattr(reason, 'strerror', None) or reason}") from None
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise error(f"{path} is not a regular file but a pipe, a device or the like")
        yield file


def _require_mapping(value: Any, path: str | Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidFile(f"{path} must hold a mapping, not a {type(value).__name__}")
    return value


class _PlainLoader(yaml.SafeLoader):
    """yaml.SafeLoader without dates, non-finite numbers, keys that are not text, and repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            _require_distinct(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        mapping = super().construct_mapping(node, deep)
        wrong = next((key for key in mapping if not isinstance(key, str)), None)
        if wrong is not None or None in mapping:
            raise ValueError(f"the key {str(wrong)[:40]} is not text; put it in quotes")
        return mapping

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return super().construct_yaml_int(_short(node))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        value = super().construct_yaml_float(_short(node))
        return value if math.isfinite(value) else _refuse_constant(node.value[:20])


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)
_PlainLoader.add_constructor("tag:yaml.org,2002:float", _PlainLoader.construct_yaml_float)


def _check_yaml(text: str) -> None:
    """Raise ValueError for text that would take hours or gigabytes to parse, and for tags, which make other types."""
    depth = 0
    for count, token in enumerate(yaml.scan(text)):
        if count > _MOST_TOKENS:
            raise ValueError(f"it has more than {_MOST_TOKENS} words and signs")
        if isinstance(token, yaml.AliasToken):
            raise ValueError("aliases are not allowed")
        if isinstance(token, yaml.TagToken):
            raise ValueError("tags are not allowed")
        depth += isinstance(token, _YAML_OPENING) - isinstance(token, _YAML_CLOSING)
        if depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")


def _check_depth(value: Any) -> None:
    """Raise ValueError for lists and mappings that are nested too deeply."""
    level = [value]
    for _ in range(_MOST_DEPTH + 1):
        inner = (item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer))
        level = [item for item in inner if isinstance(item, dict | list)] if isinstance(value, dict | list) else []
        if not level:
            return
    raise ValueError("nested too deeply")


def _mapping_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The mapping; raises ValueError for a repeated key."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        _require_distinct(key for key, _ in pairs)
    return mapping


def _require_distinct(keys: Iterable[str]) -> None:
    """Raise ValueError for a repeated key, one of whose values would be lost silently."""
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"the key {key[:40]!r} is there twice")
        seen.add(key)


def _short(node: yaml.ScalarNode) -> yaml.ScalarNode:
    """The number; raises ValueError beyond Python's limit of digits, which base 60 and 16 would evade."""
    if len(node.value) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(node.value)} digits is not allowed")
    return node


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"the number {name} is not allowed")


def _finite(digits: str) -> float:
    """The number; raises ValueError where it is infinite."""
    value = float(digits)
    return value if math.isfinite(value) else _refuse_constant(digits[:20])


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
