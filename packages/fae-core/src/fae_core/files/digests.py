"""What identifies files: their SHA-256, cached between runs, or facts that show that a file has changed.

Facts are size, time of change and inode; they are known without reading a file.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from fae_core.documents import open_regular
from fae_core.errors import DataError
from fae_core.places import is_remote

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


class Digests(Protocol):
    """What identifies files, asked for in the order of a data set."""

    def of(self, file: str | Path) -> str:
        """What identifies one file, local or remote; raises DataError where it cannot be read."""
        ...

    def of_many(self, files: Sequence[str | Path], unreadable: str | None = None) -> Iterator[str]:
        """What identifies several files together, in their order.

        Args:
            files: The files, local or remote.
            unreadable: Stands for a file that cannot be read; None: DataError is raised.
        """
        ...

    def of_texts(self, texts: Iterable[str], files: Sequence[str] | None) -> Iterator[str]:
        """What identifies texts, and the files that hold one each, where they are in files of their own."""
        ...


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

    def of_many(self, files: Sequence[str | Path], unreadable: str | None = None) -> Iterator[str]:
        """The digests of files, in order, read in threads; see `Digests`."""
        for start in range(0, len(files), _CHUNK):
            chunk = [str(file) for file in files[start : start + _CHUNK]]
            versions = [None if is_remote(file) else _version(file, unreadable) for file in chunk]
            known = [self._look_up(file, version) for file, version in zip(chunk, versions, strict=True)]
            digests = [
                found or self._pool.submit(self._digest, file, unreadable)
                for file, found in zip(chunk, known, strict=True)
            ]
            fresh = []
            for file, version, digest in zip(chunk, versions, digests, strict=True):
                if isinstance(digest, Future):
                    digest = digest.result()
                    fresh.append((file, version, digest))
                yield digest
            self._remember(fresh)

    def of_texts(self, texts: Iterable[str], files: Sequence[str] | None) -> Iterator[str]:
        """The texts themselves."""
        yield from texts

    def _digest(self, file: str, unreadable: str | None = None) -> str:
        """The digest of a file, or the text of a remote address."""
        if is_remote(file):
            return self._remote(file)
        try:
            with open_regular(file, DataError) as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()
        except (OSError, DataError) as error:
            if unreadable is not None:
                return unreadable
            if isinstance(error, DataError):
                raise
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


def _version(file: str, unreadable: str | None) -> tuple[str, bool] | None:
    """`file_version` that raises DataError, or gives None for a file that may be unreadable."""
    try:
        return file_version(file)
    except OSError as error:
        if unreadable is not None:
            return None
        raise DataError(f"cannot read {file}: {error.strerror}") from None


class FileFacts:
    """Facts about files, without reading them; many are looked up at the same time. Has the methods of `FileDigests`.

    What it gives changes when a file is written, replaced or put back with its earlier times: inode and time of change
    (ctime) cannot be chosen.

    Args:
        remote: For an address ("...://..."), text that changes when its content does.
        advance: Called with the number of files looked up.

    Attributes:
        count: How many files were looked up.
        size: Their bytes; remote ones count as none.
        blocks: A short hash of names, sizes and times of modification for each group of 1,024 files: copies that keep
            their times have the same.
    """

    def __init__(self, remote: Callable[[str], str], advance: Callable[[int], object] = lambda _: None) -> None:
        self._remote, self._advance = remote, advance
        self.count = self.size = 0
        self.blocks: list[str] = []

    def of(self, file: str | Path) -> str:
        """Facts about one file; raises DataError where it cannot be found."""
        return next(self.of_many([file]))

    def of_many(self, files: Sequence[str | Path], unreadable: str | None = None) -> Iterator[str]:
        """A hash for each group of 1,024 files; see `Digests`."""
        with ThreadPoolExecutor(_THREADS) as pool:
            asked: deque[Future[tuple[str, str, int, int]]] = deque()
            for start in range(0, len(files), _CHUNK):
                asked.append(pool.submit(self._look_up, files[start : start + _CHUNK], unreadable))
                if len(asked) > 2 * _THREADS:
                    yield self._take(asked.popleft())
            while asked:
                yield self._take(asked.popleft())

    def of_texts(self, texts: Iterable[str], files: Sequence[str] | None) -> Iterator[str]:
        """The texts, where they are not in files of their own."""
        yield from texts if files is None else self.of_many(files)

    def _take(self, found: Future[tuple[str, str, int, int]]) -> str:
        """Count a group's files and give their hash."""
        exact, portable, count, size = found.result()
        self.blocks.append(portable)
        self.count, self.size = self.count + count, self.size + size
        self._advance(count)
        return exact

    def _look_up(self, files: Iterable[str | Path], unreadable: str | None) -> tuple[str, str, int, int]:
        """Of a group: hashes of what is exact and of what copies keep, the number of files, and their bytes."""
        exact, portable, count, total = hashlib.sha256(), hashlib.sha256(), 0, 0
        for file in map(str, files):
            count += 1
            if is_remote(file):
                version = self._remote(file).encode()
                exact.update(version)
                portable.update(version)
                continue
            try:
                facts = os.stat(file)  # noqa: PTH116 (a Path for each of a million files takes seconds)
            except OSError as error:
                if unreadable is None:
                    raise DataError(f"cannot read {file}: {error.strerror}") from None
                exact.update(unreadable.encode())
                portable.update(unreadable.encode())
                continue
            total += facts.st_size
            exact.update(_EXACT(facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns))
            portable.update(os.fsencode(file).rpartition(b"/")[2] + _PORTABLE(facts.st_size, facts.st_mtime_ns))
        return exact.hexdigest(), portable.hexdigest()[:16], count, total


_EXACT, _PORTABLE = struct.Struct("<QQqq").pack, struct.Struct("<Qq").pack
