"""Whether every pixel of an image reaches the network: a patch of 14 pixels leaves four rows of 256 unread, without a word."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from fae_core.errors import FAEError

_SIDES = ("rows", "columns")


@contextmanager
def every_pixel_used(network: nn.Module, size: tuple[int, int]) -> Iterator[None]:
    """While this is open, a forward pass of an image of `size` (height, width) raises FAEError, naming sizes that fit, where
    strided convolutions or poolings leave the image's last rows or columns unread.

    Of every layer it is followed how far the last window reaches beyond the image's end: padding moves it on, what a stride
    leaves over moves it back. Layers are taken as one chain, so of parallel branches the most generous counts.
    """
    reach = [0, 0]

    def look(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        if not given or given[0].ndim != 4:
            return
        for side in range(2):
            left_over, padding, stride = _last_window(layer, given[0].shape[2 + side], side)
            scale = _pixels_per_position(size[side], given[0].shape[2 + side])
            reach[side] += (padding - left_over) * scale
            if left_over and reach[side] < 0:
                less, more = size[side] - left_over * scale, size[side] + (stride - left_over) * scale
                raise FAEError(
                    f"image_size {size[0]}x{size[1]}: the network would not see the last {-reach[side]} {_SIDES[side]} of the "
                    f"image; the nearest that fit are {f'{less} and ' if less > 0 else ''}{more}"
                )

    hooks = [
        module.register_forward_pre_hook(look)
        for module in network.modules()
        # Those that pad to whole strides by themselves leave nothing out, and their `padding` does not say so.
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d))
        and not (type(module).__name__.endswith("Same") or isinstance(module.padding, str))
        and not getattr(module, "ceil_mode", False)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _last_window(layer: nn.Module, length: int, side: int) -> tuple[int, int, int]:
    """Positions behind the last window, padding, and stride of a layer; 0 and 0 where it skips positions at every size, as
    windows narrower than their stride do, or where not even one window fits."""
    kernel, stride, padding, dilation = (
        value if isinstance(value, int) else value[side]
        for value in (getattr(layer, name, 1) for name in ("kernel_size", "stride", "padding", "dilation"))
    )
    window = dilation * (kernel - 1) + 1
    if window < stride or length + 2 * padding < window:
        return 0, 0, stride
    return (length + 2 * padding - window) % stride, padding, stride


def _pixels_per_position(pixels: int, positions: int) -> int:
    """The stride of a map in the image: exact, or the power of two that padded strides of 2 come to."""
    return pixels // positions if pixels % positions == 0 else 2 ** round(math.log2(pixels / positions))
