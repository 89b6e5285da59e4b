"""Many images at once: batches for models, and the survey that finds unreadable files before a long job starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from fae_core.errors import DataError
from fae_core.images.budget import DECODING
from fae_core.images.source import ImageSource
from fae_core.images.transform import center_crop, to_tensor

_NAMED = 5  # unreadable images that a message names


def load_batch(source: ImageSource, indices: Sequence[int], size: int | tuple[int, int], *, threads: int = 1) -> Tensor:
    """Centre crops of some images: (B, 3, H, W), fp32 in [0, 1]. size: one side, or (height, width).

    threads: decode so many images at once. Raises DataError, naming the image, where one cannot be read.
    """
    if len(indices) == 0:
        raise DataError("a batch needs at least one image")
    return torch.stack(_map(lambda index: read_tensor(source, index, size), indices, threads))


def read_tensor(source: ImageSource, index: int, size: int | tuple[int, int]) -> Tensor:
    """The centre crop of one image: (3, H, W), fp32 in [0, 1]. Raises DataError, naming the image, where it cannot be read."""
    with DECODING.share():  # until the image is down to the size asked for
        cropped = center_crop(source.read(index), size)
    return to_tensor(cropped)


def readable_images(
    source: ImageSource, log: Callable[[str], Any], *, threads: int = 1, progress: Callable[[int], Any] | None = None
) -> list[int]:
    """Indices of the images that decode, after trying every one; `log` gets one line with the count and names of the rest.

    progress: called with the number of images tried so far. Raises DataError where none can be read.
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
    try:
        source.read(index)
    except DataError as error:
        return str(error)
    return None


def _map(
    function: Callable[[int], Any], items: Iterable[int], threads: int, progress: Callable[[int], Any] | None = None
) -> list[Any]:
    if threads <= 1:
        return _collect(map(function, items), progress)
    with ThreadPoolExecutor(threads) as pool:
        return _collect(pool.map(function, items), progress)


def _collect(results: Iterable[Any], progress: Callable[[int], Any] | None) -> list[Any]:
    collected = []
    for result in results:
        collected.append(result)
        if progress is not None:
            progress(len(collected))
    return collected
