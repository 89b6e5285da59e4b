"""Writing and replacing files and folders, whole or not at all. Nothing that FAE did not make is replaced."""

from __future__ import annotations

import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fae_core.commands.running import LAUNCHED, is_first_process, until_command_ends
from fae_core.errors import FAEError, FolderInUse, OutputExists
from fae_core.files.disk import disk_errors
from fae_core.files.lock import hold
from fae_core.files.ownership import is_ours, mark, require_replaceable

_STAGING, _OLD, _GONE = ".new.tmp", ".old.tmp", ".gone.tmp"
_EARLIER_OLD = ".old"  # of earlier versions, and a name that a user may give, too


@contextmanager
def staged_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`: flushed to disk and renamed if the block succeeds, else removed.

    Raises FAEError where the disk refuses the file (see `disk_errors`).

    Args:
        path: The file that is to be; its folder exists.
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
    """Write `data` to `path` through `staged_file`; raises as it does.

    Args:
        path: The file; its folder exists.
        data: All of its bytes.
    """
    with staged_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def staged_folder(
    final: str | Path, *, overwrite: bool = False, kind: str | None = None, inputs: Iterable[str | Path] = ()
) -> Iterator[Path]:
    """Yield an empty folder that becomes `final` if the block succeeds, and else is deleted.

    An older folder is replaced once the new one is complete and on disk: it is set aside, the new one is renamed into
    its place, and it is deleted. Where a kill interrupts these steps, the next writer repairs what is left.

    Args:
        final: The folder to make.
        overwrite: Replace an older folder.
        kind: The kind that is made, and that an older folder must be; None accepts any.
        inputs: Files and folders that are read, and must not be replaced.

    Raises:
        FAEError: As `require_new_folder`.
        FolderInUse: Where another process or thread writes it.
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
    """Yield a folder for the first files of one that then grows in place, such as a run. The caller holds it (`hold`).

    Args:
        final: The folder to make.
        overwrite: Replace an older folder.
        kind: The kind that is made, and that an older folder must be.
        resumable: As in `require_new_folder`.

    Raises:
        FAEError: As `require_new_folder`.
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
    """Raise unless a command may write a folder: it is absent or empty (see `is_empty`), or `overwrite` may replace it.

    Only a folder that FAE made may be replaced (`require_replaceable`), and only where no part of it is an input.

    Args:
        folder: The folder to write.
        overwrite: Replace an older folder.
        resumable: Whether the message may suggest `--resume`; or the name of a file that an older folder needs for it.
        resume: Continue the folder as it is; the caller checks its content.
        kind: The kind that an older folder must be; None accepts any.
        inputs: Files and folders that are read, and must not be replaced.

    Raises:
        OutputExists: Where the folder is not empty, without `overwrite`.
        FAEError: For a file, a symbolic link, a name that the system does not allow, a folder that FAE did not make.
    """
    folder = Path(folder)
    with disk_errors(folder):
        if not os.path.lexists(folder):
            return _check_name(folder)
        if folder.is_symlink() and not (resume and folder.is_dir()):
            raise FAEError(
                f"{folder} is a symbolic link to {folder.readlink()}; give the folder itself, so that nothing is "
                "replaced through a link"
            )
        if not folder.is_dir():
            raise FAEError(f"{folder} is a file; give a folder to write to")
        begun = not isinstance(resumable, str) or (folder / resumable).is_file()
        if is_empty(folder) or (resume and begun):
            return None
    if not overwrite:
        raise OutputExists(folder, (folder / resumable).is_file() if isinstance(resumable, str) else resumable)
    return require_replaceable(folder, kind, inputs)


def claim_file(path: str | Path, *, overwrite: bool) -> None:
    """Raise unless a command may write a file; the command that is running is its only writer then, until it ends.

    So the second one of two commands is refused when it starts: it cannot replace what the first one writes meanwhile.
    Of a command in several processes the one that starts them holds the file, or else the first of them.

    Args:
        path: The file; its folder need not exist.
        overwrite: Replace an older file.

    Raises:
        OutputExists: Where the file exists, without `overwrite`.
        FolderInUse: Where another command writes it.
        FAEError: For a folder, a symbolic link, a name that the system does not allow.
    """
    _require_new_file(path, overwrite)
    if is_first_process() and LAUNCHED not in os.environ:
        until_command_ends(hold(path))
        _require_new_file(path, overwrite)  # written meanwhile


def _require_new_file(path: str | Path, overwrite: bool) -> None:
    """Raise unless a file may be written."""
    path = absolute(path)
    with disk_errors(path):
        if not os.path.lexists(path):
            _check_name(path)
            return
        if path.is_symlink():
            raise FAEError(f"{path} is a symbolic link to {path.readlink()}; give the file itself")
        if path.is_dir():
            raise FAEError(f"{path} is a folder; give a file to write")
    if not overwrite:
        raise OutputExists(path)


def _check_name(folder: Path) -> None:
    """Raise OSError where the system does not allow the names of a new folder and of temporary folders beside it."""
    existing = next(parent for parent in folder.absolute().parents if os.path.lexists(parent))
    for name in (*folder.absolute().relative_to(existing).parts, f".{folder.name}{_GONE}"):
        with suppress(FileNotFoundError):
            os.lstat(existing / name)


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but leftovers of a writer that was killed.

    Args:
        folder: It exists.
    """
    return all(_is_leftover(path) for path in folder.iterdir())


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left in a folder, and restore what they set aside. Others may write folders in it.

    Args:
        folder: In which others may have written.
    """
    for path in list(folder.iterdir()):
        ending = next(filter(path.name.endswith, (_STAGING, _OLD, _EARLIER_OLD)), None)
        if ending is not None and path.name.startswith("."):
            final = path.with_name(path.name.removeprefix(".").removesuffix(ending))
            with suppress(FolderInUse), hold(final):
                recover_folder(final)
        elif path.name.endswith(".lock") and path.name.startswith(".") and path.name != ".lock":
            with suppress(FolderInUse), hold(path.with_name(path.name[1:].removesuffix(".lock"))):
                pass  # `hold` removes the file
        elif _is_leftover(path) and path.name != ".lock":
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def recover_folder(final: Path) -> None:
    """Repair what a killed writer of `final` left: an older folder set aside is restored, or deleted if `final` exists.

    The caller holds the folder. What earlier versions set aside could be a user's own copy: it is never deleted.

    Args:
        final: The folder that was being written.
    """
    final = absolute(final)
    old = final.with_name(f".{final.name}{_OLD}")
    if old.is_dir() and not old.is_symlink():
        if os.path.lexists(final):
            remove_folder(old)
        else:
            old.rename(final)
    earlier_old = final.with_name(f".{final.name}{_EARLIER_OLD}")
    if not os.path.lexists(final) and earlier_old.is_dir() and not earlier_old.is_symlink() and is_ours(earlier_old):
        earlier_old.rename(final)
    # Earlier versions named them with a number.
    earlier = re.compile(re.escape(f".{final.name}.") + r"\d+\.tmp")
    for path in final.parent.glob(f".{glob.escape(final.name)}*.tmp"):
        ours = path.name in (f".{final.name}{_STAGING}", f".{final.name}{_GONE}") or earlier.fullmatch(path.name)
        if ours and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def replace_folder(staging: Path, final: Path) -> None:
    """Rename `staging` to `final`, and delete an older folder after that. The caller holds it and may replace it.

    Args:
        staging: The new folder, complete, on the same file system.
        final: Its place, where an older one may be.
    """
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
    """Rename a folder and delete it, so that a half-deleted folder is not taken for a whole one.

    Args:
        folder: To delete; it exists.
    """
    gone = folder.with_name(f".{folder.name.removeprefix('.').removesuffix(_OLD)}{_GONE}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def absolute(folder: str | Path) -> Path:
    """A path that ends in the name of the file or folder, so that names beside it can be formed.

    Raises FAEError for the root folder, which has no name.
    """
    folder = Path(folder)
    with disk_errors(folder):
        found = folder if folder.name not in ("", "..") else folder.resolve()
    if not found.name:
        raise FAEError(f"{folder} cannot be written itself; give a name in it")
    return found


def sync_folder(folder: str | Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power failure.

    Args:
        folder: In which a file was renamed.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> None:
    """Flush a file to disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_tree(folder: Path) -> None:
    """Flush every file and folder below one."""
    for parent, _, files in os.walk(folder):
        for name in files:
            sync_folder(Path(parent) / name)
        sync_folder(parent)


def _is_leftover(path: Path) -> bool:
    """Whether a path is a temporary file or a lock; not a folder set aside, which `recover_folder` may restore."""
    name = path.name
    return name.startswith(".") and name.endswith((".tmp", ".lock")) and not name.endswith(_OLD)
