"""Which folders FAE made, recognised by their content, and which of them may be replaced.

Each kind of folder that FAE writes has a file of its own format, which marks it. A folder that is written in one step
also carries the names of its entries: as an extended attribute, or in a file `.fae` where there is no other mark and
the file system has no attributes.
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
    ANY_BAD_BATCH,
    ANY_STORE_SHARD,
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
    RUN_EXPORTS,
    RUN_METRICS,
    RUN_MODEL,
    RUN_SAMPLES,
    RUN_TRACKERS,
    RUN_UNREADABLE,
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
_MOST_BYTES = 2**28  # of a file that marks a folder; the index of a large store is long

# Names that FAE itself writes at the top of a folder. Other entries are the user's.
_OWN = frozenset(
    [
        RUN_CONFIG,
        RUN_METRICS,
        RUN_UNREADABLE,
        RUN_CHECKPOINTS,
        RUN_MODEL,
        RUN_EXPORTS,
        RUN_SAMPLES,
        RUN_TRACKERS,
        RESULTS,
        REPORT,
        ANY_BAD_BATCH,
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
        ANY_STORE_SHARD,
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
    """Whether FAE made a folder."""
    return kind_of(folder) is not None


def kind_of(folder: str | Path) -> str | None:
    """The kind of a folder that FAE made: "run", "model", "latent store", ...; None for a folder of another origin.

    "output" is any other output of a command, known by its names alone.
    """
    folder = Path(folder)
    for kind, (name, fits) in _MARKS.items():
        with suppress(InvalidFile, OSError):
            if (folder / name).is_file() and fits(folder / name):
                return kind
    return _marked(folder)[0] or _earlier(folder)


def mark(folder: Path, kind: str | None = None) -> None:
    """Record in a folder its kind and the names that FAE has written there so far.

    Args:
        folder: The folder.
        kind: As `kind_of` gives it; None is "output".
    """
    text = json.dumps({"kind": kind or "output", "names": sorted(path.name for path in folder.iterdir())})
    try:
        os.setxattr(folder, _ATTRIBUTE, text.encode())
    except (OSError, AttributeError):  # the file system has no attributes, or the text is too long
        if not is_ours(folder):
            (folder / _MARK_FILE).write_text(text + "\n", encoding="utf-8")


def require_replaceable(folder: Path, kind: str | None = None, inputs: Iterable[str | Path] = ()) -> None:
    """Raise FAEError unless FAE wrote everything in a folder, and the running command reads no part of it.

    Args:
        folder: The folder.
        kind: The kind that it must be; None accepts any.
        inputs: Files and folders that are read, beside those that the running command names.
    """
    found = kind_of(folder)
    if found is None or (kind is not None and found != kind):
        replaced = f"{kind} folders" if kind else "what FAE made"
        raise FAEError(
            f"{folder} {_REFUSALS.get(kind or '', 'was not made by FAE')}; --overwrite replaces {replaced} only: "
            "give another folder, or move this one away yourself"
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
    """The part of an input that is read: of a run, its model, so that other folders in it may be replaced."""
    return path / RUN_MODEL if (path / RUN_MODEL).is_dir() and kind_of(path) == "run" else path


def _is_own(path: Path, recipe: Path | None) -> bool:
    """Whether FAE wrote an entry, by its name, its mark or the recipe's steps; an empty file counts."""
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
    """Names in a recipe's folder that its finished steps wrote."""
    commands = [
        str(entry.get("command")) for entry in read_json(recipe / RECIPE_STEPS)["steps"] if isinstance(entry, dict)
    ]
    return {part for command in commands for out in outputs_of(shlex.split(command)) for part in Path(out).parts}


def _marked(folder: Path) -> tuple[str | None, set[str]]:
    """The kind and the names in a folder's mark; None and no names where it has none."""
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
    """The kind of a folder of an earlier version, which had no mark."""
    with suppress(InvalidFile, OSError):
        if folder.name == RUN_MODEL and kind_of(folder.parent) == "run":
            return "model"
        everything = {path.name for path in folder.iterdir()}
        if (folder / STORE_PROGRESS / STORE_PLAN).is_file() or everything == {STORE_PROGRESS}:
            return "latent store"
        names = {name for name in everything if not name.startswith(".")}
        if {PAIRS, RESULTS} <= names <= {PAIRS, RESULTS, IMAGES}:
            record = folder / RESULTS / "reconstruction.json"
            return "output" if record.is_file() and read_json(record).get("kind") == "reconstruction" else None
        if names == {PROMPTS, REFERENCE}:
            return "output"
        if names and names <= {TRAIN, HELD_OUT} and (folder / TRAIN / IMAGE_CLASSES).is_file():
            entries = read_json_value(folder / TRAIN / IMAGE_CLASSES)
            return "output" if all({"index", "wnid", "name"} == entry.keys() for entry in entries) else None
    return None


def _mapping(*keys: str) -> Callable[[Path], bool]:
    """Whether a JSON file has these keys."""
    return lambda path: set(keys) <= read_json(path, max_bytes=_MOST_BYTES).keys()


def _is_run(path: Path) -> bool:
    """Whether a YAML file is the record of a run."""
    training = read_yaml(path).get("training")
    return isinstance(training, dict) and {"steps", "batch_size", "checkpoint_every"} <= training.keys()


def _is_samples(path: Path) -> bool:
    """Whether a JSON file is the record of samples."""
    job: Any = read_json(path, max_bytes=_MOST_BYTES).get("job")
    return isinstance(job, dict) and {"generator", "decoder", "seed"} <= job.keys()


def _is_store(path: Path) -> bool:
    """Whether a JSON file is the index of a latent store."""
    return read_json(path, max_bytes=_MOST_BYTES).get("format") == "fae-latent-store"


# The file that marks each kind, and a check of its format, since other programs use names such as config.json too.
_MARKS: dict[str, tuple[str, Callable[[Path], bool]]] = {
    "recipe": (RECIPE_STEPS, _mapping("title", "steps")),
    "run": (RUN_CONFIG, _is_run),
    "bundle": (BUNDLE_RECORD, _mapping("format_version", "tokenizer", "generator")),
    "model": (MODEL_CONFIG, _mapping("model_type", "package", "config")),
    "samples": (SAMPLES_RECORD, _is_samples),
    "latent store": (STORE_INDEX, _is_store),
    "text cache": (CACHE_INDEX, _mapping("fingerprint", "width", "prompts", "tokens")),
}
