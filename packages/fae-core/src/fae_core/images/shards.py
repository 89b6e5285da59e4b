"""Shard files by name, local or remote, and local copies of remote ones.

Remote shards (any address that fsspec reads: https, s3, gs, hf, ...) are copied whole when first needed, once per
machine, into a folder that never holds more than its limit, so that data larger than the disk can be read.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO

from fae_core.documents import require_regular
from fae_core.errors import DataError, FAEError, MissingPackage
from fae_core.files import disk_errors
from fae_core.files.digests import file_version
from fae_core.folders import cache_folder
from fae_core.images.formats import SHARD_SUFFIXES
from fae_core.places import is_remote
from fae_core.redact import bare_address, redact

LIMIT_VARIABLE = "FAE_SHARD_CACHE_GB"
_DEFAULT_LIMIT_GB = 50.0

# What file systems report of a file and what changes with its content; one of them is enough.
_VALIDATORS = (
    *("ETag", "etag", "Content-MD5", "Digest", "md5Hash", "crc32c", "checksum", "generation", "VersionId"),
    *("Last-Modified", "LastModified", "last_modified", "last_commit", "updated", "mtime", "created"),
)


def shard_name(shard: str) -> str:
    """What a shard is called: its path or address, without secrets, and the same when an address is signed anew.

    The query of an address is left out unless the path before it names no shard, as in "https://host/get?file=a.tar".
    """
    if not is_remote(shard):
        return shard
    name, query = bare_address(shard)
    return name if PurePosixPath(name).suffix in SHARD_SUFFIXES else name + redact(query)


def open_remote(address: str) -> IO[bytes]:
    """A remote file, open for reading any part of it.

    Args:
        address: what fsspec reads.

    Raises:
        DataError: it cannot be opened.
        MissingPackage: fsspec is not installed.
    """
    with _remote_errors(address):
        system, path = _fsspec().core.url_to_fs(address)
        return system.open(path, "rb")


def remote_version(address: str) -> str:
    """Text that changes when a remote file does: the version that its server reports, else a hash of its bytes.

    Args:
        address: what fsspec reads.

    Raises:
        DataError: the file cannot be read.
        MissingPackage: fsspec is not installed.
    """
    with _remote_errors(address):
        system, path = _fsspec().core.url_to_fs(address)
        system.invalidate_cache()
        facts = system.info(path)
    reported = {key: str(facts[key]) for key in _VALIDATORS if facts.get(key)}
    if reported:
        return f"{facts.get('size')} {sorted(reported.items())}"
    with open_remote(address) as opened, _remote_errors(address):
        # typing.IO lacks the `readinto` that fsspec's files have.
        return hashlib.file_digest(opened, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


class ShardFiles:
    """Shards as open files. Safe in threads and processes: a remote shard is copied when it is first needed."""

    def __init__(self) -> None:
        self.folder = cache_folder() / "shards"
        self.limit = float(os.environ.get(LIMIT_VARIABLE, _DEFAULT_LIMIT_GB)) * 1e9
        self._versions: dict[str, str] = {}

    def open(self, shard: str) -> IO[bytes]:
        """The shard open for reading, after copying it here if it is remote.

        This is an open file and not a path: another process may remove a copy at any time, but an open one stays.

        Args:
            shard: a path or an address.

        Raises:
            DataError: it cannot be read.
            MissingPackage: fsspec, which remote shards need, is not installed.
        """
        if not is_remote(shard):
            require_regular(shard, DataError)
            try:
                return Path(shard).open("rb")
            except FileNotFoundError:
                raise DataError(f"{shard} does not exist") from None
            except OSError as error:
                raise DataError(f"cannot read {shard}: {error.strerror}") from None
        copy = self.folder / f"{_key(self.identity(shard))}-{PurePosixPath(shard_name(shard)).name[-80:]}"
        with suppress(FileNotFoundError):
            return self._open_copy(copy)
        from filelock import FileLock

        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{copy}.lock"):
                with suppress(FileNotFoundError):
                    return self._open_copy(copy)
                return self._copy(shard, copy)

    def identity(self, shard: str) -> str:
        """Text that changes when the shard does: its path or name and its version, found once.

        Args:
            shard: a path or an address.

        Raises:
            OSError: a local file cannot be read.
            DataError: a remote file cannot be read.
        """
        if not is_remote(shard):
            return f"{Path(shard).resolve()} {file_version(shard)[0]}"
        if shard not in self._versions:
            self._versions[shard] = remote_version(shard)
        return f"{shard_name(shard)} {self._versions[shard]}"

    def _open_copy(self, copy: Path) -> IO[bytes]:
        """Open a copy, and record that it was used. Raises FileNotFoundError."""
        opened = copy.open("rb")
        with suppress(OSError):  # in a read-only cache the time of use stays as it is
            os.utime(copy)
        return opened

    def _copy(self, shard: str, copy: Path) -> IO[bytes]:
        """Copy a remote shard, whole or not at all, and open the copy."""
        for leftover in self.folder.glob(f".{glob.escape(copy.name)}.*.tmp"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        temporary = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
        try:
            with _remote_errors(shard), open_remote(shard) as source, temporary.open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
            opened = temporary.open("rb")
            self._make_room(temporary.stat().st_size)
            temporary.replace(copy)
            return opened
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, needed: int) -> None:
        """Remove the copies that were used longest ago. Those that are open can still be read."""
        copies = []
        for path in filter(_is_copy, self.folder.iterdir()):
            with suppress(FileNotFoundError):  # another thread or process made room meanwhile
                facts = path.stat()
                copies.append((facts.st_mtime_ns, facts.st_size, path))
        total = needed + sum(size for _, size, _ in copies)
        for _, size, path in sorted(copies):
            if total <= self.limit:
                return
            total -= size
            path.unlink(missing_ok=True)


def _is_copy(path: Path) -> bool:
    """Whether a file's name is that of a copy made here; the folder may hold other files."""
    return re.match(r"[0-9a-f]{16}-.", path.name) is not None and path.suffix != ".lock"


def _key(shard: str) -> str:
    """A short hash of a shard's identity, for file names."""
    return hashlib.sha256(shard.encode()).hexdigest()[:16]


@contextmanager
def _remote_errors(address: str) -> Iterator[None]:
    """A block in which errors of reading become DataError, a full disk excepted."""
    try:
        yield
    except FAEError:
        raise
    except Exception as error:  # each of fsspec's back ends raises its own
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(f"cannot read {address}: {reason(error, address)}") from None


def reason(error: BaseException, shard: str) -> str:
    """Why a shard cannot be read, in one line without secrets.

    Args:
        error: what was raised. Of one that only names the shard, as fsspec's do, its cause speaks, or its type.
        shard: the path or address.
    """
    said = " ".join(str(error).split())
    if said not in shard:
        return redact(said)[:200]  # in this order: half a password is not known as one
    if error.__cause__ is not None:
        return reason(error.__cause__, shard)
    return "there is no such file" if isinstance(error, FileNotFoundError) else type(error).__name__


def _fsspec():
    """The fsspec module. Raises MissingPackage."""
    try:
        import fsspec
    except ImportError:
        raise MissingPackage("reading remote shards", "fae-core[data]") from None
    return fsspec
