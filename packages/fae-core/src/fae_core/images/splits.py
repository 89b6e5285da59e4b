"""Which of the files and folders in a folder are one data set: those of one split, of one kind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import TypeVar

from fae_core.errors import DataError
from fae_core.images.shards import shard_name

File = TypeVar("File", str, Path)

_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
_NAMES |= dict.fromkeys(("val", "valid", "validation", "dev"), "validation")
_NAMES |= dict.fromkeys(("unlabeled", "unlabelled"), "unlabeled")
_NUMBERED = re.compile(r"(.+?)-(\d+)-of-(\d+)")  # Hugging Face: train-00000-of-00012


def files_of_split(files: Sequence[File], split: str | None, where: str) -> list[File]:
    """The files of a split, by their names: `train-00000-of-00004`, `train*`, or `imagenet1k-train-0000`.

    Args:
        files: all files of a folder or a pattern, at least one; paths or addresses.
        split: the name of the split; None where all files are of one.
        where: what errors call the folder or pattern.

    Raises:
        DataError: no file is of that split, or, without a split, they are of several.
    """
    chosen = {file: PurePath(shard_name(str(file))) for file in files}
    if split is not None:
        named = {file: path for file, path in chosen.items() if _numbered(path.stem) == split}
        starting = {file: path for file, path in chosen.items() if path.name.startswith(split)}
        holding = {file: path for file, path in chosen.items() if split in _words(path.stem)}
        first = chosen[files[0]].name
        chosen = named or starting or holding
        if not chosen:
            raise DataError(f"{where} has no split {split!r}; it has {first} and {len(files) - 1} more files")
    require_one_split((path.stem for path in chosen.values()), where)
    return list(chosen)


def absent_parts(files: Sequence[Path]) -> str | None:
    """What is missing of data sets whose files say how many they are, in words; None where nothing is.

    Args:
        files: those that are read, named as `train-00000-of-00004`.
    """
    parts: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if found := _NUMBERED.fullmatch(file.stem):
            parts.setdefault((found[1], int(found[3])), set()).add(int(found[2]))
    for (name, count), there in parts.items():
        if len(there) < count:
            first = next(number for number in range(count) if number not in there)
            return f"{name} has {len(there)} of its {count} files; number {first} is the first that is missing"
    return None


def require_one_split(names: Iterable[str], where: str) -> None:
    """Check that files or folders are of one split.

    Args:
        names: their names.
        where: what errors call the place that holds them.

    Raises:
        DataError: they are of several splits, such as train-0 and test-0.
    """
    found: dict[tuple[str, ...], str] = {}
    for name in names:
        words = [word for word in _words(name) if word in _NAMES]
        if words:
            found.setdefault(tuple(_NAMES[word] for word in words), " ".join(words))
    if len(found) > 1:
        raise DataError(
            f"{where} holds several splits ({', '.join(sorted(found.values()))}); choose one with --split "
            f"{next(iter(found.values())).split()[-1]}, its folder, or a pattern such as train-{{0000..0099}}.tar"
        )


def are_splits(names: Sequence[str]) -> bool:
    """Whether several folders all have names of splits, perhaps numbered (train2017), so that they are no classes."""
    return len(names) > 1 and all((words := _words(name)) and set(words) <= _NAMES.keys() for name in names)


def _numbered(stem: str) -> str | None:
    """The split in a name such as train-00000-of-00012."""
    found = _NUMBERED.fullmatch(stem)
    return found[1] if found else None


def _words(name: str) -> list[str]:
    """The parts of a name that consist of letters, in lower case."""
    return re.findall(r"[a-z]+", name.lower())
