"""The one check that all public functions make of images: floats (B, 3, H, W) in [0, 1], not [-1, 1], [0, 255] or NaN.

Shape and type are always checked. Values are checked in one pass over the batch; on a GPU the process waits for it (a
synchronisation, some ten microseconds beside what was queued before). Inside torch.compile, torch.export, vmap and the
capture of a CUDA graph values are not checked, since none can be read there. `unchecked_images()` and
FAE_CHECK_IMAGES=0 turn the check of values off elsewhere; wrong ranges then give wrong numbers without an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.tracing import is_readable

TOLERANCE = 1e-3  # beyond the range, for rounding; the overshoot of a cubic filter is clamped where images are resized
VARIABLE = "FAE_CHECK_IMAGES"
_unchecked: ContextVar[bool] = ContextVar("unchecked_images", default=False)


@contextmanager
def unchecked_images() -> Iterator[None]:
    """A block in which values of images are not checked: for images that are known to be right."""
    token = _unchecked.set(True)
    try:
        yield
    finally:
        _unchecked.reset(token)


def require_image_batch(images: object, what: str = "images", channels: int | None = 3) -> Tensor:
    """Check type and shape of images, but not their values.

    Args:
        images: what to check.
        what: what errors call them.
        channels: how many channels they have; None allows any number.

    Returns:
        The images.

    Raises:
        FAEError: they are not a tensor of floats (B, channels, H, W) with at least one pixel each.
    """
    wanted = f"{what} must be floats in [0, 1] of shape (B, {channels or 'C'}, H, W)"
    if not isinstance(images, Tensor):
        hint = "; fae_core.images.to_tensor makes one of an RGB picture" if hasattr(images, "convert") else ""
        raise FAEError(f"{wanted}, got {_named(images)}{hint}")
    if not images.is_floating_point():
        hint = "; divide by 255" if images.dtype == torch.uint8 else ""
        raise FAEError(f"{wanted}, got {images.dtype} {tuple(images.shape)}{hint}")
    if images.ndim != 4 or images.shape[1] != (channels or images.shape[1]) or not all(images.shape[1:]):
        raise FAEError(f"{wanted}, got shape {tuple(images.shape)}{_shape_hint(tuple(images.shape))}")
    return images


def require_image_pair(a: object, b: object) -> None:
    """Check that two batches of images, of any number of channels, can be compared pixel by pixel.

    Args:
        a: what to check.
        b: likewise.

    Raises:
        FAEError: one is not a tensor of floats (B, C, H, W), or their shapes differ.
    """
    a, b = (require_image_batch(x, channels=None) for x in (a, b))
    if a.shape != b.shape:
        raise FAEError(f"expected two batches (B, C, H, W) of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")


def require_range(images: Tensor, low: float = 0.0, high: float = 1.0, what: str = "images") -> None:
    """Check the values of images, except where the module's docstring says that values are not checked.

    Args:
        images: floats of any shape.
        low: the least value that is allowed, up to rounding.
        high: the largest.
        what: what errors call the images.

    Raises:
        FAEError: a value is outside or NaN; the range that was found is named.
    """
    if not is_readable(images) or _unchecked.get():
        return
    if os.environ.get(VARIABLE) == "0" or (images.is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    images = images.detach()
    ends = torch.aminmax(images if images.element_size() > 1 else images.float())
    least, most = torch.stack(ends).tolist()
    if not (least >= low - TOLERANCE and most <= high + TOLERANCE):  # NaN is neither
        found = "NaN" if least != least else f"[{least:.3g}, {most:.3g}]"
        raise FAEError(f"{what} must lie in [{low:g}, {high:g}], got {found}{_range_hint(least, most, low)}")


def require_images(images: object, what: str = "images") -> None:
    """Check images completely.

    Args:
        images: what to check.
        what: what errors call them.

    Raises:
        FAEError: they are not floats (B, 3, H, W) in [0, 1].
    """
    require_range(require_image_batch(images, what), what=what)


def _named(value: object) -> str:
    """What a value is, for messages."""
    kind = type(value).__name__
    if isinstance(value, (list, tuple)):
        return f"a {kind} of {len(value)}"
    shape = getattr(value, "shape", None)
    return f"a {type(value).__module__.split('.')[0]}.{kind}" + (f" {tuple(shape)}" if shape is not None else "")


def _shape_hint(shape: tuple[int, ...]) -> str:
    """How to get from a shape to (B, 3, H, W)."""
    if len(shape) == 3 and shape[0] == 3:
        return "; add the batch's axis: images[None]"
    if len(shape) == 4 and shape[3] == 3:
        return "; the channels come before height and width: images.permute(0, 3, 1, 2)"
    if len(shape) == 4 and shape[1] in (1, 4):
        return "; " + ("repeat grey to three channels" if shape[1] == 1 else "take alpha off")
    return ""


def _range_hint(least: float, most: float, low: float) -> str:
    """How to get from a range to [0, 1]."""
    if low != 0:
        return ""
    if least >= 0 and 2 < most <= 255:
        return "; divide by 255"
    if -1 - TOLERANCE <= least < 0 and most <= 1 + TOLERANCE:
        return "; (x + 1) / 2 brings [-1, 1] there"
    return "; encoders normalise by themselves: give images before any mean and std" if least < 0 else ""
