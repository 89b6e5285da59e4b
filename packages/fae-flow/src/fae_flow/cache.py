"""Keys and values of the tokens decided so far, in memory that is allocated once per block and sample call.

Shapes: R rows, S slots (prefix + steps), G key heads, D head dimension. Keys are stored rotated, so a step rotates only its
own; the original rotates its whole prefix again at every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Where a call writes and what it sees.

    slots: (n,) int64, the slots of its n tokens. start: the first of them as a number, or None where only the device knows
    it (in a CUDA graph). length: it sees slots 0 .. length - 1. mask: (n, length), True where a token may look; None =
    everywhere. rows: the cache's rows that the batch stands for; None = all, in order.
    """

    slots: Tensor
    start: int | None
    length: int
    mask: Tensor | None = None
    rows: Tensor | None = None


class LayerCache:
    """Keys and values of one attention layer, (R, 2G, S, D): what one head reads lies together."""

    def __init__(
        self, rows: int, slots: int, heads: int, head_dim: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.heads = heads
        # Zeros, not empty: slots that a mask hides are still multiplied, and 0 * nan is nan.
        self.store = torch.zeros(rows, 2 * heads, slots, head_dim, device=device, dtype=dtype)

    def update(self, keys_values: Tensor, window: Window) -> tuple[Tensor, Tensor]:
        """Store (r, n, 2G, D) and return the keys and values that the window sees, (r, G, length, D) each."""
        if window.rows is not None:
            self.store[window.rows[:, None], :, window.slots] = keys_values
            seen = self.store[:, :, : window.length].index_select(0, window.rows)
        else:
            new = keys_values.transpose(1, 2)
            if window.start is None:
                self.store.index_copy_(2, window.slots, new)
            else:
                self.store[:, :, window.start : window.start + len(window.slots)] = new
            seen = self.store[:, :, : window.length]
        return seen[:, : self.heads], seen[:, self.heads :]
