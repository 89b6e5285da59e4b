"""Whether a package may carry a bundle: it is small, safetensors only, whole, of one latent space, and has a card."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from fae_core.errors import FAEError
from fae_core.files import sha256_file
from fae_core.folders import BUNDLE_PARTS, BUNDLE_RECORD, README
from fae_core.models.bundles import OTHERS, bundle_part, read_bundle
from fae_core.spec import LatentSpec

MEGABYTES = 32  # of one bundle, so that a wheel stays quick to download
SUFFIXES = (".safetensors", ".json", ".md", ".png")


def check_bundle(folder: Path) -> Iterator[str]:
    """The faults of the bundle in a folder, one line each."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    if size > MEGABYTES:
        yield f"bundle {folder.name}: {size:.1f} MB, more than {MEGABYTES}"
    for path in files:
        if path.suffix not in SUFFIXES:
            yield f"bundle {folder.name}: {path.relative_to(folder)} is none of {', '.join(SUFFIXES)}"
    if not (folder / README).is_file():
        yield f"bundle {folder.name}: README.md is missing"
    for check in (_require_one_space, *(functools.partial(bundle_part, part=part) for part in BUNDLE_PARTS)):
        try:
            check(folder)
        except FAEError as error:
            yield f"bundle {folder.name}: {error}"
    try:
        record = read_bundle(folder)
    except FAEError:
        return
    listed = record["files"] | record.get(OTHERS, {})
    for path in files:
        name = path.relative_to(folder).as_posix()
        if name in listed:
            if sha256_file(path) != listed[name]:
                yield f"bundle {folder.name}: {name} is not the file that its record lists"
        # Earlier versions listed weights alone.
        elif name != BUNDLE_RECORD and (OTHERS in record or path.suffix == ".safetensors"):
            yield f"bundle {folder.name}: {name} is not in its record"


def _require_one_space(folder: Path) -> None:
    """Raise LatentSpecMismatch unless tokenizer and generator have the same latent space."""
    tokenizer, generator = (LatentSpec.load(folder / part) for part in BUNDLE_PARTS)
    tokenizer.require(generator, context="tokenizer and generator")
