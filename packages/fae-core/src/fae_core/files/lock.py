"""One writer per output folder or file: a lock file beside it, which names the process that holds it.

The lock is the system's own (flock) on `.NAME.lock` beside it, or on `.lock` inside a folder whose parent cannot be
written to. The kernel releases it when the process ends, in whatever way, and the next process reuses the file. Some
network file systems do not share flock between hosts, or release it late after a crash. So the holder also touches its
lock file every few seconds, and a file that names another host is watched for a while before it is reused.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from fae_core.commands.running import arguments_in_force
from fae_core.errors import FolderInUse
from fae_core.files.disk import disk_errors
from fae_core.redact import redact

_SIGN_OF_LIFE = 10.0  # seconds between two touches of the lock file
_ATTEMPTS = 10  # to make a lock file; the holder before may remove the folder that it had made for its own
_PATIENCE = 30.0  # seconds without a touch, after which a holder on another host counts as dead
_UNSHARED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_held: dict[tuple[int, int, str], int] = {}  # (process, thread, folder) -> how many times


@contextmanager
def hold(folder: str | Path) -> Iterator[None]:
    """Be the only writer of a folder, or of a file, during the block. A thread may hold again what it holds already.

    Folders above it are made; those in which nothing is written by the end of the block are removed again.

    Raises FolderInUse, naming process and host, where another process or thread holds it.

    Args:
        folder: What is written, which need not exist.
    """
    folder = Path(os.path.realpath(folder))
    key = (os.getpid(), threading.get_ident(), str(folder))
    if key in _held:
        _held[key] += 1
        try:
            yield
        finally:
            _held[key] -= 1
        return
    with disk_errors(folder):
        made = [parent for parent in folder.parents if not parent.exists()]
        path, descriptor = _take(folder)
    _held[key] = 1
    ended = threading.Event()
    threading.Thread(target=_live, args=(path, ended), daemon=True, name="fae-lock").start()
    try:
        yield
    finally:
        del _held[key]
        ended.set()
        with suppress(OSError):  # removed before it is released, so that nobody locks a file about to be removed
            path.unlink()
        os.close(descriptor)
        with suppress(OSError):  # one is not empty
            for parent in made:
                parent.rmdir()


def _take(folder: Path) -> tuple[Path, int]:
    """Lock a folder; its lock file and the descriptor."""
    while True:
        path, descriptor = _open(folder)
        try:
            _lock(descriptor, folder)
            if _is_same(descriptor, path):
                try:
                    _take_over(descriptor, path, folder)
                except OSError:  # a full disk
                    path.unlink(missing_ok=True)
                    raise
                return path, descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the previous holder removed the file meanwhile


def _open(folder: Path) -> tuple[Path, int]:
    """The lock file of a folder and its descriptor."""
    beside = folder.with_name(f".{folder.name}.lock") if folder.name else folder / ".lock"
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        for _ in range(_ATTEMPTS):
            with suppress(FileNotFoundError):
                beside.parent.mkdir(parents=True, exist_ok=True)
                return beside, os.open(beside, flags, 0o666)
        # On file systems without files of users, such as /proc.
        raise PermissionError(errno.EACCES, "no files can be made there")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not folder.is_dir():
            raise
        if beside.exists():  # a second lock inside the folder would exclude nobody
            raise FolderInUse(folder, f"another user, whose lock {beside} may not be written") from None
    inside = folder / ".lock"
    return inside, os.open(inside, flags, 0o666)


def _lock(descriptor: int, folder: Path) -> None:
    """Take the system's lock; where the file system has none, rely on the file's content. Raises FolderInUse."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FolderInUse(folder, _describe(_read(descriptor))) from None
    except OSError as error:
        if error.errno not in _UNSHARED:
            raise
        holder = _read(descriptor)
        if holder.get("host") == socket.gethostname() and _is_alive(holder.get("pid")):
            raise FolderInUse(folder, _describe(holder)) from None


def _is_same(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at that path."""
    try:
        now = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino)


def _take_over(descriptor: int, path: Path, folder: Path) -> None:
    """Write this process into the lock file, after waiting for a sign of life from a holder on another host."""
    holder = _read(descriptor)
    if holder.get("host") not in (None, socket.gethostname()):
        before, until = os.fstat(descriptor).st_mtime_ns, time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            time.sleep(0.5)
            if path.stat().st_mtime_ns != before:
                raise FolderInUse(folder, _describe(holder))
    facts = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": _command(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(facts).encode(), 0)


def _live(path: Path, ended: threading.Event) -> None:
    """Touch the lock file regularly until the event is set."""
    while not ended.wait(_SIGN_OF_LIFE):
        with suppress(OSError):
            os.utime(path)


def _read(descriptor: int) -> dict[str, Any]:
    """The holder's record in a lock file; empty where it cannot be read, such as while it is being written."""
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(os.pread(descriptor, 2**16, 0))
        if isinstance(found, dict):
            return found
    return {}


def _describe(holder: dict[str, Any]) -> str:
    """The holder in words, for an error message."""
    if not holder:
        return "another process"
    command = " ".join(str(holder.get("command", "")).split())[:120]
    since = " ".join(str(holder.get("since", "")).split())[:40]
    return f"process {holder.get('pid')} on {str(holder.get('host'))[:80]} (`{command}`, since {since})"


def _command() -> str:
    """The running command, without secrets."""
    words = arguments_in_force.get()
    return redact(shlex.join(["fae", *words] if words else [Path(sys.argv[0]).name or "python", *sys.argv[1:]]))[:2000]


def _is_alive(pid: object) -> bool:
    """Whether a process of this number runs on this host."""
    if not isinstance(pid, int) or pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
