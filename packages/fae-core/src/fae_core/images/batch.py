"""Many images: batches for models, and the check that finds unreadable files before a long job starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from fae_core.errors import DataError
from fae_core.images.budget import DECODING
from fae_core.images.read_ahead import read_ahead
from fae_core.images.source import ImageSource
from fae_core.images.transform import as_height_width, crop_tensor
from fae_core.processes import available_threads

Result = TypeVar("Result")
_NAMED = 5  # unreadable images that a message names


def load_batch(
    source: ImageSource, indices: Sequence[int], size: int | tuple[int, int], *, threads: int | None = None
) -> Tensor:
    """Centre crops of some images.

    Args:
        source: the images.
        indices: which of them, at least one.
        size: of the crops in pixels, one side or (height, width).
        threads: how many images are decoded at the same time; None: as many as the process may use cores.

    Returns:
        (B, 3, H, W), fp32 in [0, 1].

    Raises:
        DataError: an image, which is named, cannot be read.
    """
    if len(indices) == 0:
        raise DataError("a batch needs at least one image")
    height, width = as_height_width(size)
    batch = torch.empty(len(indices), 3, height, width)
    rows = batch.unbind()
    _map(
        lambda row: read_tensor(source, indices[row], size, rows[row]),
        range(len(indices)),
        threads or available_threads(),
    )
    return batch


def read_tensor(source: ImageSource, index: int, size: int | tuple[int, int], out: Tensor | None = None) -> Tensor:
    """The centre crop of one image: (3, H, W), fp32 in [0, 1], in `out` where it is given (see `crop_tensor`).

    Arguments and errors are those of `load_batch`.
    """
    with DECODING.share():  # until the image is down to the size asked for
        return crop_tensor(source.read(index), size, out)


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
    reasons = _map(lambda index: _obstacle(source, index), range(len(source)), threads, progress)
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


def _map(
    function: Callable[[int], Result],
    items: Iterable[int],
    threads: int,
    progress: Callable[[int], Any] | None = None,
) -> list[Result]:
    """What a function gives for each item, in order, with more than one thread computed in these."""
    results = []
    for _, result in read_ahead(function, items, threads=threads if threads > 1 else 0, ahead=4 * threads):
        results.append(result)
        if progress is not None:
            progress(len(results))
    return results
