"""Which folders FAE made, recognised by their content, and which of them may be replaced.

Each kind of folder that FAE writes has a file of its own format, which marks it. A folder that is written in one step
also carries the names of its entries: as an extended attribute, or in a file `.fae` where there is no other mark and
the file system has no attributes. A folder may be replaced where every file in it, at any depth, has a name that FAE
gives to files of its kind; whatever else is there is the user's.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from fae_core.commands.running import inputs_in_force, outputs_of
from fae_core.documents import read_json, read_json_value, read_yaml
from fae_core.errors import FAEError, InvalidFile
from fae_core.files.disk import disk_errors
from fae_core.folders import (
    ANY_BAD_BATCH,
    ANY_CHECKPOINT,
    ANY_STORE_SHARD,
    BUNDLE_PARTS,
    BUNDLE_RECORD,
    CACHE_INDEX,
    CACHE_KEYS,
    CACHE_OFFSETS,
    CACHE_SUMS,
    CACHE_TOKENS,
    CHECKPOINT_STATE,
    ENCODER,
    FEATURE_DECODER,
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
    REFERENCE_VAL2014,
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
    TRAIN,
    weights_file,
)

_ATTRIBUTE, _MARK_FILE = "user.fae", ".fae"
_FEWEST_DIGITS = 4  # of the number that names an image
_MOST_BYTES = 2**28  # of a file that marks a folder; the index of a large store is long

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
    with disk_errors(folder):
        foreign = _foreign(folder, _rules(folder, found))
    if foreign is not None:
        raise FAEError(
            f"{folder} also holds {foreign.relative_to(folder)}, which FAE did not put there; move it elsewhere before "
            "--overwrite"
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


def _foreign(folder: Path, rules: Mapping[str, Any]) -> Path | None:
    """The first entry at any depth of a folder that FAE did not write; None where it wrote all.

    Args:
        folder: Where to look.
        rules: What FAE writes there, in the form of `_KINDS`.
    """
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path, is_folder = Path(entry.path), entry.is_dir(follow_symlinks=False)
        kind = kind_of(path) if is_folder else None
        rule = _rules(path, kind) if kind is not None else _rule(path, rules)
        if is_folder and isinstance(rule, Mapping):
            if (foreign := _foreign(path, rule)) is not None:
                return foreign
        elif rule is not True and not (rule and entry.is_symlink()) and not _is_empty_file(entry):
            return path
    return None


def _is_empty_file(entry: os.DirEntry) -> bool:
    return entry.is_file(follow_symlinks=False) and entry.stat().st_size == 0


def _rule(path: Path, rules: Mapping[str, Any]) -> Any:
    """What the rules of a folder say of an entry; False where they do not name it."""
    patterns = chain(rules.items(), _AT_ANY_DEPTH.items())
    matching = (rule for pattern, rule in patterns if fnmatch.fnmatchcase(path.name, pattern))
    rule = rules[path.name] if path.name in rules else next(matching, False)
    return rule(path) if callable(rule) else rule


def _rules(folder: Path, kind: str) -> dict[str, Any]:
    """The rules of a folder of a kind, in the form of `_KINDS`."""
    own, rules = _marked(folder)[1], _KINDS.get(kind, {})
    if kind == "recipe":
        rules = {**_written_by(folder), **rules}
    if kind == "output" and own:  # it may be any of several
        rules = {name: rule for name, rule in rules.items() if name in own}
    return {**dict.fromkeys(own, True), **_IN_EVERY_KIND, **rules}


def _written_by(recipe: Path) -> dict[str, Any]:
    """Rules of a recipe's folder: what the finished steps wrote, by each part of their --out."""
    commands = [
        str(entry.get("command")) for entry in read_json(recipe / RECIPE_STEPS)["steps"] if isinstance(entry, dict)
    ]
    parts = {part for command in commands for out in outputs_of(shlex.split(command)) for part in Path(out).parts}
    rules: dict[str, Any] = dict(_RECORDS)
    rules.update(dict.fromkeys(parts, lambda path: rules if path.is_dir() else True))
    return rules


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
        if {PROMPTS} < names <= {PROMPTS, REFERENCE, REFERENCE_VAL2014}:
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
    "checkpoint": (CHECKPOINT_STATE, _mapping("step", "tensors", "files")),
    "bundle": (BUNDLE_RECORD, _mapping("format_version", "tokenizer", "generator")),
    "model": (MODEL_CONFIG, _mapping("model_type", "package", "config")),
    "samples": (SAMPLES_RECORD, _is_samples),
    "latent store": (STORE_INDEX, _is_store),
    "text cache": (CACHE_INDEX, _mapping("fingerprint", "width", "prompts", "tokens")),
}


def _is_record(path: Path) -> bool:
    """Whether a JSON file is the record of a measurement, or a picture lies beside one."""
    with suppress(InvalidFile):
        found = read_json(path.with_suffix(".json"))
        return isinstance(found.get("kind"), str) and isinstance(found.get("title"), str)
    return False


def _is_numbered(path: Path) -> bool:
    """Whether a file's name is a number, as those of samples and crops are."""
    return len(path.stem) >= _FEWEST_DIGITS and path.stem.isascii() and path.stem.isdecimal()


def _crops(split: Path) -> dict[str, Any]:
    """Rules of a split's folder that `fae crops` wrote: its images, and a folder of them for each class."""
    rules: dict[str, Any] = {IMAGE_CLASSES: True, **_NUMBERED}
    with suppress(InvalidFile, TypeError, KeyError):
        rules |= {str(entry["wnid"]): _NUMBERED for entry in read_json_value(split / IMAGE_CLASSES)}
    return rules


# What FAE writes into each kind of folder, by name or pattern. True: FAE wrote it, of a folder all that is in it. A
# mapping: a folder with such entries. A function gives one of these, or False, for a path. A folder of a kind of its
# own (a model, a store in an experiment) follows the rules of that kind wherever it lies.
_NUMBERED = {"*.png": _is_numbered}
_RECORDS = {"*.json": _is_record, "*.png": _is_record, "*.svg": _is_record, PAIRS: True}
_IN_EVERY_KIND = {RESULTS: _RECORDS, REPORT: True}
_AT_ANY_DEPTH = dict.fromkeys((".fae", ".*.tmp", ".*.lock", ".lock", ".DS_Store", "Thumbs.db"), True)
_CHECKPOINT: dict[str, Any] = dict.fromkeys((CHECKPOINT_STATE, "*.safetensors"), True)
_MODEL: dict[str, Any] = dict.fromkeys((MODEL_CONFIG, MODEL_WEIGHTS, weights_file("*"), LATENT_SPEC, README), True)
_MODEL |= dict.fromkeys((ENCODER, FEATURE_DECODER, PIXEL_DECODER), _MODEL)
_KINDS: dict[str, dict[str, Any]] = {
    "recipe": {RECIPE_STEPS: True, RECIPE_LOGS: {"*.log": True}},
    "run": {
        **dict.fromkeys((RUN_CONFIG, RUN_METRICS, RUN_UNREADABLE, RUN_TRACKERS, ANY_BAD_BATCH), True),
        RUN_CHECKPOINTS: {ANY_CHECKPOINT: _CHECKPOINT},
        RUN_MODEL: _MODEL,
        RUN_EXPORTS: {ANY_CHECKPOINT: _MODEL},
        RUN_SAMPLES: {ANY_CHECKPOINT: True},
    },
    "checkpoint": _CHECKPOINT,
    "bundle": {BUNDLE_RECORD: True, README: True, **dict.fromkeys(BUNDLE_PARTS, _MODEL)},
    "model": _MODEL,
    "samples": {**dict.fromkeys((SAMPLES_RECORD, SAMPLES_NPZ, GRID), True), IMAGES: _NUMBERED},
    "latent store": {
        **dict.fromkeys((STORE_INDEX, ANY_STORE_SHARD, STORE_LABELS, STORE_SKIPPED, LATENT_SPEC), True),
        STORE_PROGRESS: {"*.json": True},
    },
    "text cache": dict.fromkeys((CACHE_INDEX, CACHE_KEYS, CACHE_OFFSETS, CACHE_SUMS, CACHE_TOKENS), True),
    "output": {
        **dict.fromkeys((PAIRS, PROMPTS, REFERENCE, REFERENCE_VAL2014), True),
        IMAGES: _NUMBERED,
        TRAIN: _crops,
        HELD_OUT: _crops,
    },
}
