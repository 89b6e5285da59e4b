"""Errors of the disk in one line: it is full, read-only, or does not allow a name."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from fae_core.errors import FAEError

_DISK_REASONS: dict[int | None, str] = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the folder is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EEXIST: "a part of the path is a file",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its symbolic links form a circle",
    errno.EFBIG: "the file would be larger than the system allows (ulimit -f)",
    errno.EBUSY: "the folder is in use by the system, such as a mounted disk; give a folder inside it",
}


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turn the system's errors of writing `path` (full disk, read-only folder, permission) into one-line FAEErrors.

    Args:
        path: What is written, for the message.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = _DISK_REASONS.get(_error_number(error))
        if reason is None:
            raise
        raise FAEError(f"cannot write {path}: {reason}") from error


def _error_number(error: Exception) -> int | None:
    """The system's number of an error; safetensors gives it in its text only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None
