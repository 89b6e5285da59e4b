"""The check that finds unreadable images before a long job starts. torch is not imported."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from fae_core.errors import DataError
from fae_core.images.read_ahead import read_ahead
from fae_core.images.source import ImageSource

Result = TypeVar("Result")
_NAMED = 5  # unreadable images that a message names


def readable_images(
    source: ImageSource, log: Callable[[str], Any], *, threads: int = 1, progress: Callable[[int], Any] | None = None
) -> list[int]:
    """Indices of the images that decode, after trying every one.

    Args:
        source: the images.
        log: called with one line that counts and names the others, where there are any.
        threads: how many images are tried at the same time.
        progress: called with the number of images tried so far.

    Raises:
        DataError: none can be read.
    """
    reasons = in_order(lambda index: _obstacle(source, index), range(len(source)), threads, progress)
    bad = [index for index, reason in enumerate(reasons) if reason is not None]
    if not bad:
        return list(range(len(source)))
    if len(bad) == len(source):
        raise DataError(f"none of the {len(source)} images can be read; the first: {reasons[0]}")
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    names = ", ".join(source.name(index) for index in bad[:_NAMED])
    log(f"{len(bad)} of {len(source)} images cannot be read and are skipped: {names}{more}")
    return [index for index, reason in enumerate(reasons) if reason is None]


def _obstacle(source: ImageSource, index: int) -> str | None:
    """Why an image cannot be read."""
    try:
        source.read(index)
    except DataError as error:
        return str(error)
    return None


def in_order(
    function: Callable[[int], Result],
    items: Iterable[int],
    threads: int,
    progress: Callable[[int], Any] | None = None,
) -> list[Result]:
    """What a function gives for each item, in order.

    Args:
        function: is called with each item.
        items: the items.
        threads: how many calls run at the same time.
        progress: called with the number of results so far.
    """
    results = []
    for _, result in read_ahead(function, items, threads=threads if threads > 1 else 0, ahead=4 * threads):
        results.append(result)
        if progress is not None:
            progress(len(results))
    return results
