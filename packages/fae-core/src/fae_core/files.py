"""Writing small files and folders so that nothing is half-written. Reading them, hostile or not: documents.py."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fae_core.documents import open_regular
from fae_core.documents import parse_yaml as parse_yaml
from fae_core.documents import read_json as read_json
from fae_core.documents import read_json_value as read_json_value
from fae_core.documents import read_text as read_text
from fae_core.documents import read_yaml as read_yaml
from fae_core.errors import CheckpointError, FAEError, OutputExists
from fae_core.redact import redact_values

_DISK_REASONS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the folder is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "a part of the path is a file",
}
CHECKSUM = "checksum"


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to disk, and rename it into place. Raises FAEError where the disk refuses."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, record: Any, *, seal: bool = False) -> None:
    """Write a record as JSON, whole or not at all, without secrets (`redact_values`) and halves of characters.

    seal: with a checksum of what it says (see `sealed`). Raises as `write_atomic` does.
    """
    record = json.loads(json.dumps(redact_values(record), ensure_ascii=False).encode(errors="replace"))
    text = json.dumps(sealed(record) if seal else record, indent=1, ensure_ascii=False)
    write_atomic(path, text.encode() + b"\n")


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder or a missing permission into one clear FAEError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = _DISK_REASONS.get(_error_number(error))
        if reason is None:
            raise
        raise FAEError(f"cannot write {path}: {reason}") from error


def _error_number(error: Exception) -> int | None:
    """The system's number of an error; safetensors gives it in words only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None


@contextmanager
def staged_folder(final: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `final` if the block succeeds and vanishes if it does not.

    Raises OutputExists where `final` is a non-empty folder and `overwrite` is off.
    """
    final = Path(final)
    require_new_folder(final, overwrite=overwrite)
    staging = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    with disk_errors(final):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            yield staging
            if final.exists():
                shutil.rmtree(final)
            staging.replace(final)
            sync_folder(final.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def require_new_folder(folder: str | Path, *, overwrite: bool, resumable: bool = False) -> None:
    """Raise OutputExists unless `folder` is absent or empty (see `is_empty`) or `overwrite` is on; FAEError if it is a file."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FAEError(f"{folder} is a file; give a folder to write to")
    if not overwrite and folder.is_dir() and not is_empty(folder):
        raise OutputExists(folder, resumable)


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but leftovers of a process that was killed while it wrote."""
    return all(_is_leftover(path) for path in folder.iterdir())


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed `write_atomic` or `staged_folder` left in a folder. Only for one that nobody else writes to."""
    for path in folder.iterdir():
        if _is_leftover(path):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_leftover(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def sync_folder(folder: str | Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    """Hexadecimal SHA-256 of a file's bytes. Raises CheckpointError where it is no regular file, or absent."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
