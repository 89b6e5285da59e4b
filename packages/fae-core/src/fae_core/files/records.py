"""Records as JSON, without secrets, with a checksum of what they say; and the SHA-256 of a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fae_core.documents import open_regular
from fae_core.errors import FAEError, InvalidFile
from fae_core.files.writing import write_atomic
from fae_core.redact import redact_values

CHECKSUM = "checksum"


def write_json(path: str | Path, record: Any, *, seal: bool = False, verbatim: Sequence[str] = ()) -> None:
    """Write a record as JSON, whole or not at all, without secrets (`redact_values`) and halves of characters.

    seal: with a checksum of what it says (see `sealed`). verbatim: keys whose values are no place for secrets, and stay as they
    are. Raises FAEError where a number is not finite, since nobody would read it again, and as `write_atomic` does.
    """
    public = redact_values(record)
    public.update({key: record[key] for key in verbatim if key in record})
    try:
        public = json.loads(json.dumps(public, ensure_ascii=False, allow_nan=False).encode(errors="replace"))
    except ValueError as error:
        raise FAEError(f"cannot write {path}: {error}") from None
    text = json.dumps(sealed(public) if seal else public, indent=1, ensure_ascii=False)
    write_atomic(path, text.encode() + b"\n")


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """A JSON record with the checksum of what it says, which `unsealed` compares when it is read."""
    return {**record, CHECKSUM: _checksum(record)}


def unsealed(record: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """A record that `sealed` made, without its checksum. Raises InvalidFile where it says something else now; one without
    a checksum, as earlier versions wrote them, is taken as it is."""
    said = {key: value for key, value in record.items() if key != CHECKSUM}
    if CHECKSUM in record and record[CHECKSUM] != _checksum(said):
        raise InvalidFile(f"{path} is damaged, or was changed by hand: its checksum is not that of what it says")
    return said


def _checksum(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes. Raises InvalidFile where it is no regular file, or absent."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
