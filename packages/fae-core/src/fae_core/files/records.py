"""Records as JSON, without secrets, with a checksum of their content; and the SHA-256 of a file."""

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
    """Write a record as JSON, whole or not at all, without secrets (`redact_values`) and lone surrogates.

    Args:
        path: The file.
        record: A mapping of plain values.
        seal: Add a checksum of the content (see `sealed`).
        verbatim: Keys whose values hold no secrets and stay as they are.

    Raises:
        FAEError: Where a number is not finite, which could not be read again, and as `write_atomic`.
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
    """A JSON record with a checksum of its content, which `unsealed` compares when it is read.

    Args:
        record: What JSON can hold.
    """
    return {**record, CHECKSUM: _checksum(record)}


def unsealed(record: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """A record that `sealed` made, without its checksum. One without a checksum, of earlier versions, is accepted.

    Args:
        record: As it was read.
        path: Its file, for the error message.

    Raises:
        InvalidFile: Where the content is not the one that was sealed.
    """
    content = {key: value for key, value in record.items() if key != CHECKSUM}
    if CHECKSUM in record and record[CHECKSUM] != _checksum(content):
        raise InvalidFile(f"{path} is damaged, or was changed by hand: its checksum is not that of what it says")
    return content


def _checksum(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes. Raises InvalidFile where it is absent or not a regular file.

    Args:
        path: A regular file.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
