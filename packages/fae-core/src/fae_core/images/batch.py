"""Batches of images for models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL.Image import Image
from torch import Tensor

from fae_core.errors import DataError
from fae_core.images.budget import DECODING
from fae_core.images.readable import in_order
from fae_core.images.source import ImageSource
from fae_core.images.transform import as_height_width, crop_pair, crop_tensor
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
    batch = _empty(indices, size)
    _fill(source, indices, lambda image, row: crop_tensor(image, size, batch[row]), threads)
    return batch


def load_at_sizes(
    source: ImageSource,
    indices: Sequence[int],
    size: int | tuple[int, int],
    other: int | tuple[int, int],
    *,
    threads: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Some images at two sizes, see `crop_pair`; each is decoded once.

    Args:
        source: The images.
        indices: Which of them, at least one.
        size: Of the first crops in pixels, one side or (height, width).
        other: Of the second ones.
        threads: As of `load_batch`.

    Returns:
        Two tensors as of `load_batch`; one tensor twice where the sizes are the same.

    Raises:
        DataError: As `load_batch`.
    """
    if as_height_width(size) == as_height_width(other):
        images = load_batch(source, indices, size, threads=threads)
        return images, images
    first, second = _empty(indices, size), _empty(indices, other)
    _fill(source, indices, lambda image, row: crop_pair(image, size, other, (first[row], second[row])), threads)
    return first, second


def _empty(indices: Sequence[int], size: int | tuple[int, int]) -> Tensor:
    """A batch to be filled. Raises DataError where it would hold nothing."""
    if len(indices) == 0:
        raise DataError("a batch needs at least one image")
    return torch.empty(len(indices), 3, *as_height_width(size), dtype=torch.float32, device="cpu")


def _fill(
    source: ImageSource, indices: Sequence[int], crop: Callable[[Image, int], object], threads: int | None
) -> None:
    """Have `crop` write every image to its row of a batch."""

    def read(row: int) -> None:
        with DECODING.share():  # until the image is down to the sizes asked for
            crop(source.read(indices[row]), row)

    in_order(read, range(len(indices)), threads or available_threads())


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
