"""Errors that a user can correct. The command line prints them as one line and exits with status 2."""

from __future__ import annotations

import copyreg
import difflib
import json
import shlex
import typing
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fae_core.redact import redact

_FIELDS = 8  # wrong fields that a message names
_NAMES = 40  # known names that a hint lists


class FAEError(Exception):
    """A mistake in the input, not in the program: the message says what is wrong and how to correct it.

    Args:
        message: One line. It may name whatever was given: secrets in it are replaced (`fae_core.redact`).
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(redact(str(message)))

    def __reduce__(self) -> tuple[Any, ...]:
        # An error of another process comes pickled. Exception would give the message to the constructor, and ours take
        # other arguments; it would raise in the thread that multiprocessing.Pool receives results with, for good.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # pyright: ignore[reportAttributeAccessIssue]


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class LatentSpecMismatch(FAEError):
    """Two parts of a pipeline have different latent spaces.

    Args:
        fields: Each field that differs, with (wanted, found).
        context: What the message says they belong to.
    """

    def __init__(self, fields: dict[str, tuple[object, object]], context: str = "") -> None:
        self.fields = fields
        listed = "; ".join(
            f"{name}: wanted {_short(wanted)}, found {_short(found)}" for name, (wanted, found) in fields.items()
        )
        super().__init__(f"latent spaces differ{f' ({context})' if context else ''}: {listed}")


class UnknownName(FAEError):
    """A name that is not in a closed list; the message suggests the nearest ones.

    Args:
        kind: What the name is of, such as "preset".
        name: The name.
        known: The list.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name[:60]!r}; {nearest(name, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: the nearest known names, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name[:60], known, n=3, cutoff=0.4)
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = f" and {len(known) - _NAMES} more" if len(known) > _NAMES else ""
    return f"known: {', '.join(known[:_NAMES]) or 'none'}{more}"


def require_known(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise UnknownName for the first name that is not known.

    Args:
        kind: What the names are of, such as "metric".
        names: The names.
        known: The closed list.
    """
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise UnknownName(kind, unknown, known)


class DataError(FAEError):
    """Images, labels or latents that cannot be read or do not match."""


class InvalidFile(FAEError):
    """A file or folder (a model, a checkpoint, a record) that is missing, damaged, or of another kind."""


class InvalidSettings(InvalidFile):
    """Settings, from a file, a preset or --set, with an unknown name or a value out of range."""


class MissingPackage(FAEError):
    """An optional package that is not installed.

    Args:
        what: What needs it.
        requirements: What pip is to install, such as "fae-core[data]".
    """

    def __init__(self, what: str, *requirements: str) -> None:
        a = "packages that are" if len(requirements) > 1 else "a package that is"
        super().__init__(f"{what} needs {a} not installed: {install_command(*requirements)}")


def install_command(*requirements: str) -> str:
    """The command that installs packages. This project's come from where this one did: a checkout, or an index.

    Args:
        requirements: Names, with extras in brackets.
    """
    return shlex.join(["pip", "install", *map(_installable, requirements)])


def _installable(requirement: str) -> str:
    """What pip takes for a requirement: a folder, wheel or repository beside the one that fae-core is from."""
    name, bracket, extras = requirement.partition("[")
    extras = bracket + extras
    if not name.startswith("fae-"):
        return requirement
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    origin = _origin()
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        return f"{name}{extras} @ {vcs['vcs']}+{origin['url']}@{vcs['commit_id']}#subdirectory=packages/{name}"
    beside = [Path(__file__).parents[3]]  # of the checkout, where its source is what runs
    if origin.get("url", "").startswith("file:"):
        beside.append(Path(url2pathname(urlsplit(origin["url"]).path)).parent)
    for folder in beside:
        if (folder / name / "pyproject.toml").is_file():
            return f"{folder / name}{extras}"
        if wheels := sorted(folder.glob(f"{name.replace('-', '_')}-*.whl")):
            return f"{wheels[-1]}{extras}"
    return requirement


def _origin() -> dict[str, Any]:
    """Where fae-core was installed from, as pip records it (PEP 610); empty for an index, and where it does not say."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return json.loads(distribution("fae-core").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return {}


class OutputExists(FAEError):
    """An output folder that is not empty, or an output file.

    Args:
        folder: Its path.
        resumable: Whether the message suggests --resume.
    """

    def __init__(self, folder: object, resumable: bool = False) -> None:
        super().__init__(
            f"{folder} exists; pass --overwrite to replace it{' or --resume to continue it' if resumable else ''}"
        )


class FolderInUse(FAEError):
    """An output folder, or file, that another process is writing.

    Args:
        folder: Its path.
        holder: The process, in words.
    """

    def __init__(self, folder: object, holder: str) -> None:
        self.folder, self.holder = folder, holder
        super().__init__(f"{folder} is in use by {holder}; wait until it has ended, or give another --out")


class Interrupted(FAEError):
    """Work that stopped cleanly after a signal. The command line exits with 128 plus the signal's number.

    Args:
        done: What was finished.
        signal: The signal's number.
        command: The command that continues.
    """

    def __init__(self, done: str, signal: int, command: str) -> None:
        super().__init__(f"{done}; go on with: {command}")
        self.done, self.signal, self.exit_code = done, signal, 128 + signal


def field_reasons(errors: Sequence[Mapping[str, Any]], owner: type) -> str:
    """Pydantic's findings on one line: each wrong field and why; an unknown name with the nearest known ones.

    Args:
        errors: `ValidationError.errors()`.
        owner: The class whose fields were validated.
    """
    listed = [
        f"{'.'.join(map(str, error['loc'])) or 'as a whole'}: {_finding(error, owner)}" for error in errors[:_FIELDS]
    ]
    more = f"; and {len(errors) - _FIELDS} more" if len(errors) > _FIELDS else ""
    return " ".join("; ".join(text[:200] for text in listed).split()) + more


def is_unknown_name(finding: Mapping[str, Any]) -> bool:
    """Whether one of pydantic's findings is a field that does not exist."""
    return finding["type"] in ("extra_forbidden", "unexpected_keyword_argument")


def _finding(found: Mapping[str, Any], owner: type) -> str:
    """One finding in words."""
    if not is_unknown_name(found):
        return found["msg"]
    *path, name = found["loc"]
    owners = [owner]
    for part in path:  # indices and names of a union's members are not fields
        inner = [_fields(one)[part] for one in owners if part in _fields(one)]
        owners = [one for annotation in inner for one in _classes(annotation)] if inner else owners
    return f"{found['msg']}; {nearest(str(name), {known for one in owners for known in _fields(one)})}"


def _fields(owner: type) -> dict[Any, Any]:
    """Annotations of a class's fields by name."""
    found = getattr(owner, "model_fields", None) or getattr(owner, "__pydantic_fields__", {})
    return {name: field.annotation for name, field in found.items()}


def _classes(annotation: Any) -> list[type]:
    """The classes with fields in an annotation such as `tuple[Inner, ...] | None`."""
    if _fields(annotation):
        return [annotation]
    return [one for part in typing.get_args(annotation) for one in _classes(part)]


def _short(value: object) -> str:
    """A value in few words, for an error message."""
    if isinstance(value, tuple) and len(value) > 4:
        first = ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in value[:3])
        return f"({first}, ... {len(value)} values)"
    if isinstance(value, str) and len(value) > 24:
        return repr(value[:21] + "...")
    return repr(value)


def __getattr__(name: str) -> Any:
    if name != "CheckpointError":
        raise AttributeError(f"module 'fae_core.errors' has no attribute {name!r}")
    warnings.warn("CheckpointError is now InvalidFile; the old name goes with the next release", DeprecationWarning, 2)
    return InvalidFile
