"""SHA-256 of files, cached between runs together with facts (size, times) that show that a file has changed."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from fae_core.documents import open_regular
from fae_core.errors import DataError

_THREADS = 4
_CHUNK = 1024  # files that are hashed ahead of their turn
_SETTLED_NS = 2 * 10**9  # a file that changed more recently could change again within one tick of its clock


def file_version(path: str | Path) -> tuple[str, bool]:
    """Text that changes when a local file does, without reading it.

    Args:
        path: The file.

    Returns:
        The text, and whether it is reliable: a file that has just been written may change again within one clock tick.

    Raises:
        OSError: Where the file cannot be found.
    """
    facts = Path(path).stat()
    text = f"{facts.st_dev} {facts.st_ino} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"
    return text, time.time_ns() - max(facts.st_mtime_ns, facts.st_ctime_ns) > _SETTLED_NS


class FileDigests:
    """SHA-256 of files, cached. A context manager; `of` and `of_many` may be called inside it.

    Args:
        cache: The file of the cache.
        remote: For an address ("...://..."), text that changes when its content does.
    """

    def __init__(self, cache: Path, remote: Callable[[str], str]) -> None:
        self._path, self._remote = cache, remote

    def __enter__(self) -> FileDigests:
        self._pool = ThreadPoolExecutor(_THREADS)
        self._known = self._open()
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._known is not None:
            self._known.close()

    def of(self, file: str | Path) -> str:
        """The digest of one file, local or remote; raises DataError where it cannot be read."""
        return next(self.of_many([file]))

    def of_many(self, files: Sequence[str | Path]) -> Iterator[str]:
        """The digests of files, in order, read in threads; raises DataError where one cannot be read."""
        for start in range(0, len(files), _CHUNK):
            chunk = [str(file) for file in files[start : start + _CHUNK]]
            versions = [None if "://" in file else _version(file) for file in chunk]
            known = [self._look_up(file, version) for file, version in zip(chunk, versions, strict=True)]
            digests = [found or self._pool.submit(self._digest, file) for file, found in zip(chunk, known, strict=True)]
            fresh = []
            for file, version, digest in zip(chunk, versions, digests, strict=True):
                if isinstance(digest, Future):
                    digest = digest.result()
                    fresh.append((file, version, digest))
                yield digest
            self._remember(fresh)

    def _digest(self, file: str) -> str:
        """The digest of a file, or the text of a remote address."""
        if "://" in file:
            return self._remote(file)
        try:
            with open_regular(file, DataError) as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror}") from None

    def _open(self) -> sqlite3.Connection | None:
        """The table of cached digests; None where the folder cannot be written."""
        with suppress(OSError, sqlite3.Error):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            opened = sqlite3.connect(self._path, timeout=2)
            opened.execute("create table if not exists digests (path text primary key, version text, sha256 text)")
            return opened
        return None

    def _look_up(self, file: str, version: tuple[str, bool] | None) -> str | None:
        """The cached digest of a file in this version, or None."""
        if self._known is None or version is None:
            return None
        with suppress(sqlite3.Error, UnicodeEncodeError):
            row = self._known.execute(
                "select version, sha256 from digests where path = ?", (str(Path(file).absolute()),)
            )
            stored = row.fetchone()
            return stored[1] if stored and stored[0] == version[0] else None
        return None

    def _remember(self, fresh: Sequence[tuple[str, tuple[str, bool] | None, str]]) -> None:
        """Cache, in one transaction, the digests of files with a reliable version that did not change meanwhile."""
        if self._known is None:
            return
        rows = []
        for file, version, digest in fresh:
            with suppress(OSError, UnicodeEncodeError):
                if version is not None and version[1] and file_version(file)[0] == version[0]:
                    rows.append((str(Path(file).absolute()), version[0], digest))
        with suppress(sqlite3.Error, UnicodeEncodeError), self._known:
            self._known.executemany("insert or replace into digests values (?, ?, ?)", rows)


def _version(file: str) -> tuple[str, bool]:
    """`file_version` that raises DataError."""
    try:
        return file_version(file)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None
