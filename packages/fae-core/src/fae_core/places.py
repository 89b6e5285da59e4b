"""Which samples of a data set are asked for: indices that a person or another program gives."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from fae_core.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


_SLICE = re.compile(r"(.+)\[(-?\d{1,18})?:(-?\d{1,18})?(?::(-?[1-9]\d{0,17}))?\]")  # start, stop and step as in Python


def split_slice(source: str) -> tuple[str, slice | None]:
    """A source of data and the part of it that is asked for, of "PATH[start:stop:step]"; None for all of it.

    What exists under the whole name is meant as it is.
    """
    found = _SLICE.fullmatch(source)
    if found is None or os.path.exists(source):  # noqa: PTH110 (Path's raises for long names)
        return source, None
    return found[1], slice(*(None if part is None else int(part) for part in found.group(2, 3, 4)))


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
