"""The bundles of the installed packages, and the parts of a bundle, checked by the SHA-256 of every file.

A package that carries bundles registers its module under the entry-point group "fae.bundles"; each of its folders
`bundles/NAME` is one.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fae_core.errors import FAEError, InvalidFile
from fae_core.files import read_json, sha256_file, unsealed
from fae_core.folders import BUNDLE_PARTS, BUNDLE_RECORD
from fae_core.plugins import load_plugins

OTHERS = "others"  # in the record, the files that are not weights; "files" are the weights
FORMAT_VERSION = 1
DTYPES = ("float16", "bfloat16", "float32")  # of the weights in a bundle


@functools.cache
def bundle_folders() -> dict[str, Path]:
    """Every bundle of the installed packages: name -> folder. Raises FAEError where two bundles have the same name."""
    folders: dict[str, Path] = {}
    for package in sorted({point.value for point in load_plugins("fae.bundles").values()}):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for record in sorted((Path(spec.origin).parent / "bundles").glob(f"*/{BUNDLE_RECORD}")):
            name = record.parent.name
            if name in folders:
                raise FAEError(f"two bundles are named {name}: {folders[name]} and {record.parent}")
            folders[name] = record.parent
    return folders


def is_bundle(folder: Path) -> bool:
    """Whether a folder has the record of a bundle."""
    return (folder / BUNDLE_RECORD).is_file()


def read_bundle(folder: Path) -> dict[str, Any]:
    """bundle.json of a folder; raises InvalidFile where it is missing, malformed or of another format."""
    path = folder / BUNDLE_RECORD
    record = read_json(path)
    if record.get("format_version") != FORMAT_VERSION:
        raise InvalidFile(f"{path} has format {record.get('format_version')!r}; this version reads {FORMAT_VERSION}")
    files, others, parts = record.get("files"), record.get(OTHERS, {}), [record.get(part) for part in BUNDLE_PARTS]
    if not isinstance(files, dict) or not isinstance(others, dict) or not all(isinstance(part, dict) for part in parts):
        raise InvalidFile(f"{path} does not say what the bundle holds")
    for part in BUNDLE_PARTS:
        history = record[part].get("training", [])
        if not isinstance(history, list) or not all(isinstance(run, dict) for run in history):
            raise InvalidFile(f"{path} does not say how its parts were trained")
    inside = all(isinstance(digest, str) and _inside(name) for name, digest in (files | others).items())
    if not inside or not all(name.endswith(".safetensors") for name in files):
        raise InvalidFile(f"{path} names files that are not in the bundle")
    return record


def bundle_part(folder: Path, part: str, parts: Sequence[str] | None = None) -> Path:
    """The folder of a bundle's tokenizer or generator, verified. Files that the record does not list are never read.

    Args:
        folder: The bundle's.
        part: "tokenizer" or "generator".
        parts: Folders inside the part's whose weights must be there, "" for its own; None for all.

    Raises:
        InvalidFile: Where needed weights of the part are missing, or any file of it has changed.
    """
    record = read_bundle(folder)
    weights = _of_part(record["files"], part)
    if not weights:
        raise InvalidFile(f"{folder / BUNDLE_RECORD} lists no weights of a {part}")
    unsealed(record, folder / BUNDLE_RECORD)
    for name in weights:
        needed = parts is None or str(PurePosixPath(name).parent.relative_to(part)).replace(".", "") in parts
        if needed and not (folder / name).is_file():
            raise InvalidFile(f"{folder / name} is missing from the bundle")
    others = _of_part(record.get(OTHERS, {}), part)  # earlier versions listed weights alone
    for name, digest in (weights | others).items():
        if (folder / name).is_file() and sha256_file(folder / name) != digest:
            raise InvalidFile(f"{folder / name} is damaged: it is not the file that the bundle was made with")
    return folder / part


def _of_part(files: dict[str, str], part: str) -> dict[str, str]:
    """Those of the listed files that are in a part's folder."""
    return {name: digest for name, digest in files.items() if name.startswith(f"{part}/")}


def _inside(name: str) -> bool:
    """Whether a name is that of a file in the bundle."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.as_posix() == name
