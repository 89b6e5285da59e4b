"""Shard files by name, here or elsewhere: patterns such as train-{0000..0099}.tar, and local copies of remote ones.

Remote shards (any address that fsspec reads: https, s3, gs, hf, ...) are copied whole when first needed, once per machine, into
a folder that never holds more than its limit, so that data larger than the disk can be read.
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
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from fae_core.documents import require_regular
from fae_core.errors import DataError, FAEError, MissingPackage
from fae_core.files import disk_errors
from fae_core.files.digests import file_version

CACHE_VARIABLE = "FAE_CACHE"
LIMIT_VARIABLE = "FAE_SHARD_CACHE_GB"
_DEFAULT_LIMIT_GB = 50.0
_MOST_SHARDS = 1_000_000

# What file systems say of a file that changes with its content; one of them is enough.
_VALIDATORS = (
    *("ETag", "etag", "Content-MD5", "Digest", "md5Hash", "crc32c", "checksum", "generation", "VersionId"),
    *("Last-Modified", "LastModified", "last_modified", "last_commit", "updated", "mtime", "created"),
)
_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")


def cache_folder() -> Path:
    """Where FAE keeps what it can make again: $FAE_CACHE, or fae/ in the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fae"


def is_remote(source: str) -> bool:
    """Whether an address is to be read through fsspec rather than from this machine's files."""
    return "://" in source


def expand(pattern: str) -> list[str]:
    """The names that a pattern with numeric ranges stands for: "a-{08..11}.tar" is a-08.tar to a-11.tar.

    Raises DataError where a range runs backwards or the pattern stands for more than a million names.
    """
    found = _RANGE.search(pattern)
    if not found:
        return [pattern]
    low, high = found[1], found[2]
    if int(high) < int(low) or int(high) - int(low) >= _MOST_SHARDS:
        raise DataError(f"{pattern}: the range {found[0]} must run upwards, over at most {_MOST_SHARDS} names")
    width = len(low) if low.startswith("0") else 0
    names = []
    for number in range(int(low), int(high) + 1):
        names += expand(f"{pattern[: found.start()]}{number:0{width}d}{pattern[found.end() :]}")
        if len(names) > _MOST_SHARDS:
            raise DataError(f"{pattern} stands for more than {_MOST_SHARDS} names")
    return names


def open_remote(address: str) -> IO[bytes]:
    """A remote file, for reading any part of it. Raises DataError where it cannot be had."""
    with _remote_errors(address):
        return _fsspec().open(address, "rb").open()


def remote_version(address: str) -> str:
    """Text that changes when a remote file does: what the other side tells of it, or a hash of its bytes where it tells nothing.

    Raises DataError where it cannot be had.
    """
    with _remote_errors(address):
        system, path = _fsspec().core.url_to_fs(address)
        system.invalidate_cache()
        facts = system.info(path)
    told = {key: str(facts[key]) for key in _VALIDATORS if facts.get(key)}
    if told:
        return f"{facts.get('size')} {sorted(told.items())}"
    with open_remote(address) as opened, _remote_errors(address):
        return hashlib.file_digest(opened, "sha256").hexdigest()


class ShardFiles:
    """Shards as open files. Safe for threads and processes: a remote shard is copied by whoever needs it first."""

    def __init__(self) -> None:
        self.folder = cache_folder() / "shards"
        self.limit = float(os.environ.get(LIMIT_VARIABLE, _DEFAULT_LIMIT_GB)) * 1e9
        self._versions: dict[str, str] = {}

    def open(self, shard: str) -> IO[bytes]:
        """The shard open for reading, after copying it here if it is remote. Raises DataError where it cannot be had.

        An open file and not a path: another process may make room at any moment, which takes a copy's name but not its bytes.
        """
        if not is_remote(shard):
            require_regular(shard, DataError)
            try:
                return Path(shard).open("rb")
            except FileNotFoundError:
                raise DataError(f"{shard} does not exist") from None
            except OSError as error:
                raise DataError(f"cannot read {shard}: {error.strerror}") from None
        copy = self.folder / f"{_key(self.identity(shard))}-{Path(urlsplit(shard).path).name[-80:]}"
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
        """Text that changes when the shard does: where it lies and its version, asked for once. Raises OSError, DataError."""
        if not is_remote(shard):
            return f"{Path(shard).resolve()} {file_version(shard)[0]}"
        if shard not in self._versions:
            self._versions[shard] = remote_version(shard)
        return f"{shard} {self._versions[shard]}"

    def _open_copy(self, copy: Path) -> IO[bytes]:
        """A copy that is there, now the one used last. Raises FileNotFoundError."""
        opened = copy.open("rb")
        with suppress(OSError):  # a read-only cache keeps the order of its first uses
            os.utime(copy)
        return opened

    def _copy(self, shard: str, copy: Path) -> IO[bytes]:
        for leftover in self.folder.glob(f".{glob.escape(copy.name)}.*.tmp"):  # of who was killed while copying it
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
        """Remove the copies that were used longest ago. Whoever has one open keeps reading it: its name goes, not its bytes."""
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
    """Whether a file is a copy that was made here, by its name; others may keep shards of their own in the cache's folder."""
    return re.match(r"[0-9a-f]{16}-.", path.name) is not None and path.suffix != ".lock"


def _key(shard: str) -> str:
    return hashlib.sha256(shard.encode()).hexdigest()[:16]


@contextmanager
def _remote_errors(address: str) -> Iterator[None]:
    try:
        yield
    except FAEError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(f"cannot read {address}: {_reason(error)}") from None
    except Exception as error:  # each of fsspec's back ends raises its own
        raise DataError(f"cannot read {address}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _fsspec():
    try:
        import fsspec
    except ImportError:
        raise MissingPackage("reading remote shards", "fae-core[data]") from None
    return fsspec
