"""Batches of images for models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fae_core.errors import DataError
from fae_core.images.budget import DECODING
from fae_core.images.readable import in_order
from fae_core.images.source import ImageSource
from fae_core.images.transform import as_height_width, crop_tensor
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
    if len(indices) == 0:
        raise DataError("a batch needs at least one image")
    height, width = as_height_width(size)
    batch = torch.empty(len(indices), 3, height, width, dtype=torch.float32, device="cpu")
    rows = batch.unbind()
    in_order(
        lambda row: read_tensor(source, indices[row], size, rows[row]),
        range(len(indices)),
        threads or available_threads(),
    )
    return batch


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
