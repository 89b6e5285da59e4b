"""Pillow's resize of RGB images with the same integers, in a quarter of its time, where resample.c can be compiled.

Which of the two is used changes no pixel: a library that does not give Pillow's pixels in a trial is not used, and
neither is it for shapes in which versions of Pillow differ. FAE_COMPILE_C=0 leaves all of it to Pillow.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL.Image import Image, Resampling, fromarray

from fae_core.images.compiled import load_compiled

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, as Pillow has it
# Sizes and what they are resized to. The second is at the limit of `_is_horizontal_first`.
_TRIALS = (((75, 50), (48, 32)), ((20, 44), (10, 24)), ((40, 44), (100, 110)), ((31, 16), (15, 16)))
_lock = threading.Lock()
_found: list[ctypes.CDLL | None] = []


class Resize(NamedTuple):
    """One step: a whole image is resized, and a part of the result is kept.

    Attributes:
        whole: (width, height) to which all of the image is resized.
        box: the part.
        filter: BOX or BICUBIC.
    """

    whole: tuple[int, int]
    box: Box
    filter: Resampling

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the result."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]


def resized(image: Image, steps: list[Resize]) -> np.ndarray | None:
    """The result of some steps on an RGB image.

    Args:
        image: what to resize.
        steps: what to do, in order, at least one; each result is the next one's image.

    Returns:
        (H, W, 4) uint8, of which the fourth value means nothing; None where it cannot be computed here with Pillow's
        pixels.
    """
    sizes = [image.size, *(step.size for step in steps)]
    if image.mode != "RGB" or not all(
        _is_horizontal_first(size, step.whole) for size, step in zip(sizes, steps, strict=False)
    ):
        return None
    library = _library()
    return None if library is None else _steps(library, image, steps)


def planes(pixels: np.ndarray, out: np.ndarray) -> None:
    """Pixels as three planes of fp32 in [0, 1].

    Args:
        pixels: (H, W, 4) uint8, contiguous, as `resized` gives them.
        out: (3, H, W), fp32 and contiguous, which is filled.

    Raises:
        ValueError: `out` is something else.
    """
    if out.shape != (3, *pixels.shape[:2]) or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"{pixels.shape[:2]} pixels are written to contiguous fp32 of shape (3, H, W)")
    library = _library()
    assert library is not None  # it made the pixels
    library.fae_planes(pixels.ctypes.data, pixels.shape[0] * pixels.shape[1], out.ctypes.data)


def is_compiled() -> bool:
    """Whether images are resized by resample.c in this process."""
    return _library() is not None


def _library() -> ctypes.CDLL | None:
    """The compiled functions, looked for once in a process, if they give Pillow's pixels."""
    if not _found:
        with _lock:
            if not _found:
                library = load_compiled(Path(__file__).with_name("resample.c"))
                _found.append(library if library is not None and _agrees(library) else None)
    return _found[0]


def _renew_lock() -> None:
    """In a child process the thread that held the lock does not exist."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def _agrees(library: ctypes.CDLL) -> bool:
    """Declare the functions, and try whether some images of noise come out as from Pillow."""
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    library.fae_resize.argtypes = [pointer, *[integer] * 9, pointer]
    library.fae_planes.argtypes = [pointer, ctypes.c_size_t, pointer]
    noise = np.random.default_rng(0)
    for size, whole in _TRIALS:
        image = fromarray(noise.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        for method in (Resampling.BOX, Resampling.BICUBIC):
            found = _steps(library, image, [Resize(whole, (0, 0, *whole), method)])
            if not np.array_equal(found[..., :3], np.asarray(image.resize(whole, method))):
                return False
    levels = np.arange(256, dtype=np.uint8)
    pixels, floats = np.repeat(levels, 4), np.empty((3, 256), np.float32)
    library.fae_planes(pixels.ctypes.data, 256, floats.ctypes.data)
    return bool((floats == levels / np.float32(255)).all())


def _is_horizontal_first(size: tuple[int, int], whole: tuple[int, int]) -> bool:
    """Whether every version of Pillow resizes along rows first, as resample.c does.

    From 13.0 on, it begins with the columns where the height shrinks by more than twice as many pixels as the width.
    """
    shrinks = size[1] - whole[1]
    return shrinks <= max(0, 2 * (size[0] - whole[0]))


def _steps(library: ctypes.CDLL, image: Image, steps: list[Resize]) -> np.ndarray:
    """The result of some steps on an RGB image: (H, W, 4)."""
    pixels, owner = _pixels(image)
    for step in steps:
        pixels = _step(library, pixels, step)
    del owner  # whose memory the pixels were
    return pixels


def _step(library: ctypes.CDLL, pixels: np.ndarray, step: Resize) -> np.ndarray:
    """One step on pixels (H, W, 4)."""
    (width, height), (left, top, right, bottom) = step.size, step.box
    if step.whole == (pixels.shape[1], pixels.shape[0]):
        return pixels[top:bottom, left:right].copy()
    result = np.empty((height, width, 4), np.uint8)
    before = pixels.shape[1], pixels.shape[0]
    numbers = (*before, *step.whole, left, top, width, height, step.filter == Resampling.BICUBIC)
    if library.fae_resize(pixels.ctypes.data, *numbers, result.ctypes.data):
        raise MemoryError("an image could not be resized")
    return result


class _Arrow(ctypes.Structure):
    """Arrow's C data interface for an array (https://arrow.apache.org/docs/format/CDataInterface.html)."""


_Arrow._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Arrow))),
]
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _pixels(image: Image) -> tuple[np.ndarray, Any]:
    """An RGB image's pixels (H, W, 4) where they are, or as a copy (large images, before Pillow 11.2); their owner."""
    shape = image.height, image.width, 4
    try:
        owner = image.__arrow_c_array__()
        rows = _Arrow.from_address(_pointer(owner[1], b"arrow_array"))
        values = rows.children[0].contents if rows.n_children == 1 else rows
        if values.length == math.prod(shape) and values.n_buffers == 2 and not values.offset:
            memory = (ctypes.c_uint8 * values.length).from_address(values.buffers[1])
            return np.frombuffer(memory, np.uint8).reshape(shape), owner
    except (AttributeError, ValueError):
        pass
    return np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8).reshape(shape), None
