"""Whether every pixel of an image reaches the network: patches of 14 pixels silently leave four of 256 rows unread."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from fae_core.errors import FAEError

_SIDES = ("rows", "columns")


@contextmanager
def every_pixel_used(network: nn.Module, size: tuple[int, int]) -> Iterator[None]:
    """A context in which a forward pass fails if strided layers leave the image's last rows or columns unread.

    It tracks how far the last window of each convolution, pooling or unfolding reaches beyond the image's end: padding
    moves it forward, what a stride leaves over moves it back. Layers are treated as one chain, so of parallel branches
    the one that reaches furthest counts.

    Args:
        network: the network whose forward pass is checked.
        size: (height, width) of the image, in pixels.

    Raises:
        FAEError: during the forward pass, if pixels remain unread; the message names the nearest sizes that fit.
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
                    f"image_size {size[0]}x{size[1]}: the network would not see the last {-reach[side]} {_SIDES[side]} "
                    f"of the image; the nearest that fit are {f'{less} and ' if less > 0 else ''}{more}"
                )

    hooks = [
        module.register_forward_pre_hook(look)
        for module in network.modules()
        # Layers that pad to whole strides by themselves leave nothing out, and their `padding` does not say so.
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.Unfold))
        and not (type(module).__name__.endswith("Same") or isinstance(module.padding, str))
        and not getattr(module, "ceil_mode", False)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _last_window(layer: nn.Module, length: int, side: int) -> tuple[int, int, int]:
    """Positions behind a layer's last window, padding and stride.

    The first two are 0 if the layer skips positions at every size (its window is narrower than its stride) or
    no window fits.
    """
    kernel, stride, padding, dilation = (
        value if isinstance(value, int) else value[side]
        for value in (getattr(layer, name, 1) for name in ("kernel_size", "stride", "padding", "dilation"))
    )
    window = dilation * (kernel - 1) + 1
    if window < stride or length + 2 * padding < window:
        return 0, 0, stride
    return (length + 2 * padding - window) % stride, padding, stride


def _pixels_per_position(pixels: int, positions: int) -> int:
    """The stride of a map in the image: exact, or the nearest power of two where strides of 2 are padded."""
    return pixels // positions if pixels % positions == 0 else 2 ** round(math.log2(pixels / positions))
