"""Writing so that nothing is half-written and nothing that FAE did not make is lost: files, folders, and their replacement."""

from __future__ import annotations

import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fae_core.errors import FAEError, FolderInUse, OutputExists
from fae_core.files.disk import disk_errors
from fae_core.files.lock import hold
from fae_core.files.ownership import mark, require_replaceable

_STAGING, _OLD, _GONE = ".new.tmp", ".old", ".gone.tmp"


@contextmanager
def staged_file(path: str | Path) -> Iterator[Path]:
    """Yield a name beside `path` to write a file under; it is flushed to disk and renamed if the block succeeds, removed if not.

    Raises FAEError where the disk refuses.
    """
    path = absolute(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with disk_errors(path):
        try:
            try:
                temporary.touch()
            except FileNotFoundError:
                raise FAEError(f"cannot write {path}: no files can be made in {path.parent}") from None
            yield temporary
            _sync_file(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to disk, and rename it into place. Raises FAEError where the disk refuses."""
    with staged_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def staged_folder(
    final: str | Path, *, overwrite: bool = False, kind: str | None = None, inputs: Iterable[str | Path] = ()
) -> Iterator[Path]:
    """Yield an empty folder that becomes `final` if the block succeeds and vanishes if it does not.

    An older folder is replaced once the new one is complete and on disk: set aside, the new one renamed into its place, deleted.
    Whoever writes here next puts right what a kill between these steps left. Raises as `require_new_folder` does, and FolderInUse.
    """
    final = absolute(final)
    require_new_folder(final, overwrite=overwrite, kind=kind, inputs=inputs)
    with disk_errors(final), hold(final):
        recover_folder(final)
        require_new_folder(final, overwrite=overwrite, kind=kind, inputs=inputs)
        staging = final.with_name(f".{final.name}{_STAGING}")
        staging.mkdir(parents=True)
        try:
            yield staging
            mark(staging, kind)
            _sync_tree(staging)
            require_new_folder(final, overwrite=overwrite, kind=kind, inputs=inputs)
            replace_folder(staging, final)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def begun_folder(final: str | Path, *, overwrite: bool, kind: str, resumable: bool | str = False) -> Iterator[Path]:
    """Yield a folder for the first files of one that then grows in place, such as a run: a new `final`, or what replaces it.

    The caller holds the folder (`hold`). Raises as `require_new_folder` does.
    """
    final = absolute(final)
    with disk_errors(final):
        recover_folder(final)
        require_new_folder(final, overwrite=overwrite, kind=kind, resumable=resumable)
        if not final.is_dir() or not is_empty(final):
            with staged_folder(final, overwrite=True, kind=kind) as staging:
                yield staging
        else:  # it may be a mounted disk, which cannot be renamed
            remove_leftovers(final)
            yield final
            mark(final, kind)


def require_new_folder(
    folder: str | Path,
    *,
    overwrite: bool,
    resumable: bool | str = False,
    resume: bool = False,
    kind: str | None = None,
    inputs: Iterable[str | Path] = (),
) -> None:
    """Raise unless a command may write `folder`: one that is absent or empty (see `is_empty`), or that `overwrite` may replace.

    Only what FAE made may be replaced (`ownership.require_replaceable`), and only where no part of it is an input. resume: the folder
    goes on as it is, and its contents are the caller's to check. kind: what it must be to be replaced. resumable: whether `--resume`
    would do, or the file that lies in a folder with which it would.
    Raises OutputExists, or FAEError for a file, a symbolic link, a name that the system does not take, and for foreign folders.
    """
    folder = Path(folder)
    with disk_errors(folder):
        if not os.path.lexists(folder):
            return _check_name(folder)
        if folder.is_symlink() and not (resume and folder.is_dir()):
            raise FAEError(
                f"{folder} is a symbolic link to {folder.readlink()}; give the folder itself, so that nothing is replaced "
                "through a link"
            )
        if not folder.is_dir():
            raise FAEError(f"{folder} is a file; give a folder to write to")
        if resume or is_empty(folder):
            return None
    if not overwrite:
        raise OutputExists(folder, (folder / resumable).is_file() if isinstance(resumable, str) else resumable)
    return require_replaceable(folder, kind, inputs)


def require_new_file(path: str | Path, *, overwrite: bool) -> None:
    """Raise unless a command may write the file `path`: OutputExists, or FAEError for a folder, a link, a name of no system."""
    path = absolute(path)
    with disk_errors(path):
        if not os.path.lexists(path):
            return _check_name(path)
        if path.is_symlink():
            raise FAEError(f"{path} is a symbolic link to {path.readlink()}; give the file itself")
        if path.is_dir():
            raise FAEError(f"{path} is a folder; give a file to write")
    if not overwrite:
        raise OutputExists(path)
    return None


def _check_name(folder: Path) -> None:
    """Raise OSError where the system would not take a name on the way to a new folder, or the longest that will stand beside it."""
    there = next(parent for parent in folder.absolute().parents if os.path.lexists(parent))
    for name in (*folder.absolute().relative_to(there).parts, f".{folder.name}{_GONE}"):
        with suppress(FileNotFoundError):
            os.lstat(there / name)


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but leftovers of a process that was killed while it wrote."""
    return all(_is_leftover(path) for path in folder.iterdir())


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left in a folder, and put back what they had set aside. Others may be writing folders in it."""
    for path in list(folder.iterdir()):
        if path.name.endswith((_STAGING, _OLD)) and path.name.startswith("."):
            final = path.with_name(path.name.removeprefix(".").removesuffix(_STAGING).removesuffix(_OLD))
            with suppress(FolderInUse), hold(final):
                recover_folder(final)
        elif path.name.endswith(".lock") and path.name.startswith(".") and path.name != ".lock":
            with suppress(FolderInUse), hold(path.with_name(path.name[1:].removesuffix(".lock"))):
                pass  # whoever held it last removes it
        elif _is_leftover(path) and path.name != ".lock":
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def recover_folder(final: Path) -> None:
    """Put right what a writer of `final` left that was killed: an older folder set aside comes back, or goes if the new one stands.

    Only for who holds the folder.
    """
    final = absolute(final)
    old = final.with_name(f".{final.name}{_OLD}")
    if old.is_dir() and not old.is_symlink():
        if os.path.lexists(final):
            remove_folder(old)
        else:
            old.rename(final)
    # With a number: as versions before this one named them.
    earlier = re.compile(re.escape(f".{final.name}.") + r"\d+\.tmp")
    for path in final.parent.glob(f".{glob.escape(final.name)}*.tmp"):
        ours = path.name in (f".{final.name}{_STAGING}", f".{final.name}{_GONE}") or earlier.fullmatch(path.name)
        if ours and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def replace_folder(staging: Path, final: Path) -> None:
    """Rename `staging` to `final`; a folder that stands there goes only after that. For who holds it and may replace it."""
    old = final.with_name(f".{final.name}{_OLD}")
    if final.is_dir() and any(final.iterdir()):
        final.rename(old)
        try:
            staging.rename(final)
        except BaseException:
            old.rename(final)
            raise
        sync_folder(final.parent)
        remove_folder(old)
    else:
        staging.replace(final)
        sync_folder(final.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder of ours, under another name first, so that a half-deleted one is not taken for a whole one."""
    gone = folder.with_name(f".{folder.name.removeprefix('.').removesuffix(_OLD)}{_GONE}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def absolute(folder: str | Path) -> Path:
    """A file or folder by a path that ends in its name, so that names beside it can be formed. Raises FAEError for the root."""
    folder = Path(folder)
    with disk_errors(folder):
        found = folder if folder.name not in ("", "..") else folder.resolve()
    if not found.name:
        raise FAEError(f"{folder} cannot be written itself; give a name in it")
    return found


def sync_folder(folder: str | Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_tree(folder: Path) -> None:
    """Flush every file and folder below one."""
    for parent, _, files in os.walk(folder):
        for name in files:
            sync_folder(Path(parent) / name)
        sync_folder(parent)


def _is_leftover(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith((".tmp", ".lock"))
