"""Which folders on disk are FAE's own, told by what lies in them, and what may stand in their place.

Each kind of folder that FAE writes has a file of its own format; that is its mark. Every folder that is written in one go also
carries the names of what was put there, as an extended attribute, or in a file `.fae` where there is no other mark and the file system
has no attributes.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fae_core.commands.running import inputs_in_force, outputs_of
from fae_core.documents import read_json, read_json_value, read_yaml
from fae_core.errors import FAEError, InvalidFile
from fae_core.folders import (
    BUNDLE_RECORD,
    CACHE_INDEX,
    CACHE_KEYS,
    CACHE_OFFSETS,
    CACHE_SUMS,
    CACHE_TOKENS,
    ENCODER,
    FEATURE_DECODER,
    GENERATOR,
    GRID,
    HELD_OUT,
    IMAGE_CLASSES,
    IMAGES,
    LATENT_SPEC,
    MODEL_CONFIG,
    MODEL_WEIGHTS,
    PAIRS,
    PIXEL_DECODER,
    PROMPTS,
    README,
    RECIPE_LOGS,
    RECIPE_STEPS,
    REFERENCE,
    REPORT,
    RESULTS,
    RUN_CHECKPOINTS,
    RUN_CONFIG,
    RUN_METRICS,
    RUN_MODEL,
    RUN_SAMPLES,
    SAMPLES_NPZ,
    SAMPLES_RECORD,
    STORE_INDEX,
    STORE_LABELS,
    STORE_PLAN,
    STORE_PROGRESS,
    STORE_SKIPPED,
    TOKENIZER,
    TRAIN,
)

_ATTRIBUTE, _MARK_FILE = "user.fae", ".fae"
_MOST_BYTES = 2**28  # of a mark; the index of a large store is long

# Entries that FAE itself puts at the top of a folder. What else lies there is somebody's.
_OWN = frozenset(
    [
        RUN_CONFIG,
        RUN_METRICS,
        RUN_CHECKPOINTS,
        RUN_MODEL,
        RUN_SAMPLES,
        RESULTS,
        REPORT,
        "bad-batch-*.safetensors",
        MODEL_CONFIG,
        MODEL_WEIGHTS,
        LATENT_SPEC,
        README,
        ENCODER,
        FEATURE_DECODER,
        PIXEL_DECODER,
        BUNDLE_RECORD,
        TOKENIZER,
        GENERATOR,
        RECIPE_STEPS,
        RECIPE_LOGS,
        STORE_INDEX,
        "shard-*.safetensors",
        STORE_LABELS,
        STORE_SKIPPED,
        STORE_PROGRESS,
        CACHE_KEYS,
        CACHE_OFFSETS,
        CACHE_SUMS,
        CACHE_TOKENS,
        SAMPLES_RECORD,
        SAMPLES_NPZ,
        IMAGES,
        GRID,
        PAIRS,
        TRAIN,
        HELD_OUT,
        PROMPTS,
        REFERENCE,
        ".fae",
        ".*.tmp",
        ".*.lock",
        ".lock",
        ".*.old",
        ".DS_Store",
        "Thumbs.db",
    ]
)

_REFUSALS = {
    "run": "is not a run folder",
    "recipe": "was not made by a recipe",
    "samples": "was not made by fae sample",
    "latent store": "is not a latent store",
    "text cache": "is not a text cache",
}


def is_ours(folder: str | Path) -> bool:
    """Whether a folder carries a mark of FAE's."""
    return kind_of(folder) is not None


def kind_of(folder: str | Path) -> str | None:
    """What FAE made a folder as: "run", "model", "latent store", ...; "output" where only its mark says so; None if foreign."""
    folder = Path(folder)
    for kind, (name, fits) in _MARKS.items():
        with suppress(InvalidFile, OSError):
            if (folder / name).is_file() and fits(folder / name):
                return kind
    return _marked(folder)[0] or _earlier(folder)


def mark(folder: Path, kind: str | None = None) -> None:
    """Record in a folder what it is and what FAE has put there so far."""
    text = json.dumps({"kind": kind or "output", "names": sorted(path.name for path in folder.iterdir())})
    try:
        os.setxattr(folder, _ATTRIBUTE, text.encode())
    except (OSError, AttributeError):  # none on this file system, or too long for it
        if not is_ours(folder):
            (folder / _MARK_FILE).write_text(text + "\n", encoding="utf-8")


def require_replaceable(folder: Path, kind: str | None = None, inputs: Iterable[str | Path] = ()) -> None:
    """Raise FAEError unless everything in a folder is FAE's own and no part of it is read by the command that is to replace it.

    kind: what it must be. inputs: files and folders that are read, beside those that the running command names.
    """
    found = kind_of(folder)
    if found is None or (kind is not None and found != kind):
        raise FAEError(
            f"{folder} {_REFUSALS.get(kind, 'was not made by FAE')}; --overwrite replaces "
            f"{f'{kind} folders' if kind else 'what FAE made'} only: give another folder, or move this one away yourself"
        )
    own = _marked(folder)[1]
    for path in sorted(folder.iterdir()):
        if path.name not in own and not _is_own(path, folder if found == "recipe" else None):
            raise FAEError(
                f"{folder} also holds {path.name}, which FAE did not put there; move it elsewhere before --overwrite"
            )
    place = folder.resolve()
    for given in [*inputs_in_force(), *map(Path, inputs)]:
        read = _part_read(given.resolve())
        relation = "is" if read == place else "holds" if place in read.parents else "is a part of"
        if os.path.lexists(read) and (relation != "is a part of" or read in place.parents):
            raise FAEError(
                f"{folder} cannot be replaced: it {relation} {given}, which this command reads; use another --out"
            )


def _part_read(path: Path) -> Path:
    """What is read of an input: of a run, its model and checkpoints, so that other folders in it may be replaced."""
    return path / RUN_MODEL if (path / RUN_MODEL).is_dir() and kind_of(path) == "run" else path


def _is_own(path: Path, recipe: Path | None) -> bool:
    """Whether FAE put a file or folder there, as far as its name, its own mark, or the recipe's steps tell; or nothing is in it."""
    if path.is_file() and path.stat().st_size == 0:
        return True
    if any(fnmatch.fnmatchcase(path.name, pattern) for pattern in _OWN):
        return True
    if path.is_symlink():
        return False
    if path.is_dir() and is_ours(path):
        return True
    return recipe is not None and path.name in _written_by(recipe)


def _written_by(recipe: Path) -> set[str]:
    """Names in a recipe's folder that its finished steps wrote to."""
    commands = [
        str(entry.get("command")) for entry in read_json(recipe / RECIPE_STEPS)["steps"] if isinstance(entry, dict)
    ]
    return {part for command in commands for out in outputs_of(shlex.split(command)) for part in Path(out).parts}


def _marked(folder: Path) -> tuple[str | None, set[str]]:
    """The kind and the names in a folder's mark; None and nothing where it has none."""
    text = ""
    with suppress(OSError, AttributeError):
        text = os.getxattr(folder, _ATTRIBUTE).decode(errors="replace")
    if not text:
        with suppress(OSError):
            text = (folder / _MARK_FILE).read_text(encoding="utf-8", errors="replace")
    with suppress(ValueError, TypeError, RecursionError, KeyError):
        found = json.loads(text)
        return str(found["kind"]), set(map(str, found["names"]))
    return None, set()


def _earlier(folder: Path) -> str | None:
    """Kinds that had no mark of their own before this version."""
    with suppress(InvalidFile, OSError):
        if folder.name == RUN_MODEL and kind_of(folder.parent) == "run":
            return "model"
        everything = {path.name for path in folder.iterdir()}
        if (folder / STORE_PROGRESS / STORE_PLAN).is_file() or everything == {STORE_PROGRESS}:
            return "latent store"
        names = {name for name in everything if not name.startswith(".")}
        if {PAIRS, "results"} <= names <= {PAIRS, "results", "images"}:
            record = folder / RESULTS / "reconstruction.json"
            return "output" if record.is_file() and read_json(record).get("kind") == "reconstruction" else None
        if names == {PROMPTS, REFERENCE}:
            return "output"
        if names and names <= {TRAIN, HELD_OUT} and (folder / TRAIN / IMAGE_CLASSES).is_file():
            entries = read_json_value(folder / TRAIN / IMAGE_CLASSES)
            return "output" if all({"index", "wnid", "name"} == entry.keys() for entry in entries) else None
    return None


def _mapping(*keys: str) -> Callable[[Path], bool]:
    return lambda path: set(keys) <= read_json(path, max_bytes=_MOST_BYTES).keys()


def _is_run(path: Path) -> bool:
    training = read_yaml(path).get("training")
    return isinstance(training, dict) and {"steps", "batch_size", "checkpoint_every"} <= training.keys()


def _is_samples(path: Path) -> bool:
    job: Any = read_json(path, max_bytes=_MOST_BYTES).get("job")
    return isinstance(job, dict) and {"generator", "decoder", "seed"} <= job.keys()


def _is_store(path: Path) -> bool:
    return read_json(path, max_bytes=_MOST_BYTES).get("format") == "fae-latent-store"


# The file that marks each kind, and whether it is of our format: names such as config.json are others' too.
_MARKS: dict[str, tuple[str, Callable[[Path], bool]]] = {
    "recipe": (RECIPE_STEPS, _mapping("title", "steps")),
    "run": (RUN_CONFIG, _is_run),
    "bundle": (BUNDLE_RECORD, _mapping("format_version", "tokenizer", "generator")),
    "model": (MODEL_CONFIG, _mapping("model_type", "package", "config")),
    "samples": (SAMPLES_RECORD, _is_samples),
    "latent store": (STORE_INDEX, _is_store),
    "text cache": (CACHE_INDEX, _mapping("fingerprint", "width", "prompts", "tokens")),
}
