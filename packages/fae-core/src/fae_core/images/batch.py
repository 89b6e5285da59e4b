"""Batches of images for models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fae_core.errors import DataError
from fae_core.images.budget import DECODING
from fae_core.images.readable import in_order
from fae_core.images.source import ImageSource
from fae_core.images.transform import as_height_width, crop_tensor, resize
from fae_core.machine import available_threads


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
    return _load(source, indices, [size], threads)[0]


def load_pair(
    source: ImageSource,
    indices: Sequence[int],
    size: int | tuple[int, int],
    other: int | tuple[int, int],
    *,
    threads: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Some images at two sizes: as an encoder reads them, and as they are to come back.

    Both are crops of the images themselves: a small image that was enlarged for a backbone and is made smaller again is
    softer than it was.

    Args:
        source: The images.
        indices: Which of them, at least one.
        size: Of the first crops in pixels, one side or (height, width).
        other: Of the second ones. With other proportions they are the first ones, resized, so that both show the same.
        threads: As of `load_batch`.

    Returns:
        Two tensors as of `load_batch`; one tensor twice where the sizes are the same.

    Raises:
        DataError: As `load_batch`.
    """
    (height, width), (tall, wide) = as_height_width(size), as_height_width(other)
    if height * wide == width * tall and height != tall:
        first, second = _load(source, indices, [size, other], threads)
        return first, second
    first = load_batch(source, indices, size, threads=threads)
    return first, resize(first, (tall, wide))


def _load(
    source: ImageSource, indices: Sequence[int], sizes: Sequence[int | tuple[int, int]], threads: int | None
) -> list[Tensor]:
    """A batch for each size, as of `load_batch`; every image is decoded once."""
    if len(indices) == 0:
        raise DataError("a batch needs at least one image")
    batches = [
        torch.empty(len(indices), 3, *as_height_width(size), dtype=torch.float32, device="cpu") for size in sizes
    ]
    rows = list(zip(*(batch.unbind() for batch in batches), strict=True))

    def read(row: int) -> None:
        with DECODING.share():  # until the image is down to the sizes asked for
            image = source.read(indices[row])
            for size, out in zip(sizes, rows[row], strict=True):
                crop_tensor(image, size, out)

    in_order(read, range(len(indices)), threads or available_threads())
    return batches


def read_tensor(source: ImageSource, index: int, size: int | tuple[int, int], out: Tensor | None = None) -> Tensor:
    """The centre crop of one image: (3, H, W), fp32 in [0, 1], in `out` where it is given (see `crop_tensor`).

    Arguments and errors are those of `load_batch`.

    Args:
        source: The images.
        index: Which one, from 0.
        size: Of the crop in pixels, one side or (height, width).
        out: (3, H, W), fp32, written and returned; None: a new one.
    """
    with DECODING.share():  # until the image is down to the size asked for
        return crop_tensor(source.read(index), size, out)
