"""Which data are asked for: what a name of them means, and which samples indices mean."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fae_core.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


_MOST_NAMES = 1_000_000
_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")
_SLICE = re.compile(r"(.+)\[(-?\d{1,18})?:(-?\d{1,18})?(?::(-?[1-9]\d{0,17}))?\]")  # start, stop and step as in Python


def is_remote(source: str) -> bool:
    """Whether a source of data is an address, to be read through fsspec rather than from this machine's files."""
    return "://" in source


def local_path(source: str) -> Path:
    """The path of a source of data on this machine, with the user's folder for a "~" at its start."""
    return Path(os.path.expanduser(source))  # noqa: PTH111 (Path's raises where there is no such user)


def exists(source: str) -> bool:
    """Whether there is a file or folder of that name: what exists under its whole name is meant as it is."""
    return os.path.exists(local_path(source))  # noqa: PTH110 (Path's raises for long names)


def split_slice(source: str) -> tuple[str, slice | None]:
    """A source of data and the part of it that is asked for, of "PATH[start:stop:step]"; None for all of it."""
    found = _SLICE.fullmatch(source)
    if found is None or exists(source):
        return source, None
    return found[1], slice(*(None if part is None else int(part) for part in found.group(2, 3, 4)))


def is_pattern(source: str) -> bool:
    """Whether a source of data is a pattern for several files, such as "train-{0000..0099}.tar"."""
    return _range(source) is not None


def expand(pattern: str) -> list[str]:
    """The names that a pattern with numeric ranges stands for: "a-{08..11}.tar" is a-08.tar to a-11.tar.

    Args:
        pattern: a name with any number of ranges.

    Raises:
        DataError: a range runs backwards, or the pattern stands for more than a million names.
    """
    found = _range(pattern)
    if found is None:
        return [pattern]
    low, high = found[1], found[2]
    if int(high) < int(low) or int(high) - int(low) >= _MOST_NAMES:
        raise DataError(f"{pattern}: the range {found[0]} must run upwards, over at most {_MOST_NAMES} names")
    width = len(low) if low.startswith("0") else 0
    names = []
    for number in range(int(low), int(high) + 1):
        names += expand(f"{pattern[: found.start()]}{number:0{width}d}{pattern[found.end() :]}")
        if len(names) > _MOST_NAMES:
            raise DataError(f"{pattern} stands for more than {_MOST_NAMES} names")
    return names


def _range(source: str) -> re.Match[str] | None:
    """The first range in a pattern; None where the name is none."""
    found = _RANGE.search(source)
    return None if found is None or exists(source) else found


def places_of(indices: Any, count: int, whose: str) -> NDArray[Any]:
    """Indices as int64, negative ones counted from the end.

    Args:
        indices: a sequence, array or tensor of integers, or a slice.
        count: how many samples there are.
        whose: what errors call the data.

    Raises:
        DataError: they are no list of integers (a mask is none: as integers it would stand for samples 0 and 1), or one
            is outside the data.
    """
    import numpy as np  # not above: sources are opened without it

    if isinstance(indices, slice):
        return np.arange(*indices.indices(count), dtype=np.int64)
    given = np.asarray(indices)
    if given.ndim != 1:
        raise DataError(f"indices must be a list of numbers, not of shape {given.shape}")
    if given.size and given.dtype.kind not in "iu":
        hint = "; give numpy.flatnonzero(mask)" if given.dtype.kind == "b" else ""
        raise DataError(f"indices of {whose} are integers, not {given.dtype}{hint}")
    places = given.astype(np.int64)
    places = np.where(places < 0, places + count, places)
    if places.size and not (places.min() >= 0 and places.max() < count):
        wrong = given[(places < 0) | (places >= count)][0]
        raise DataError(f"sample {wrong} does not exist: {whose} has {count}")
    return places
