"""Keys and values of the tokens decided so far, in memory that is allocated once per block and sample call.

Keys are stored rotated, so a step rotates only its own; the original rotates its whole prefix again at every step. A
step opens the cache once for all layers (`stretch`, `indexed` or `rows`). Each layer then gets a view whose `update`
stores its new keys and values.

Shapes: L layers, R rows, S slots (prefix + steps), G key heads, D head dimension, n tokens of a stretch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class LayerCache(Protocol):
    """One layer's keys and values during one step."""

    def update(self, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (R, 2G, n, D); returns those that the layer's queries see, (R, G, length, D) each."""
        ...


class BlockCache:
    """Keys and values of all layers of a block, (L, R, 2G, S, D): those that one head reads are contiguous.

    Args:
        layers: L.
        rows: R.
        slots: S.
        heads: G.
        head_dim: D.
        device: of the memory.
        dtype: of the memory.
    """

    def __init__(
        self, layers: int, rows: int, slots: int, heads: int, head_dim: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.heads = heads
        # Zeros, not empty: slots that a mask hides are still multiplied, and 0 * nan is nan.
        self.store = torch.zeros(layers, rows, 2 * heads, slots, head_dim, device=device, dtype=dtype)

    def stretch(self, start: int, count: int) -> list[LayerCache]:
        """Views that write slots start .. start + count - 1 and see all up to them, for all layers in few calls."""
        length = start + count
        places = self.store.narrow(3, start, count).unbind(0)
        keys, values = self.store.narrow(3, 0, length).chunk(2, 2)
        return [Views(*views) for views in zip(places, keys.unbind(0), values.unbind(0), strict=True)]

    def indexed(self, slots: Tensor) -> list[LayerCache]:
        """Views that write `slots` (n,) int64, with values that only the device knows, and see all slots."""
        return [Indexed(layer, self.heads, slots) for layer in self.store.unbind(0)]

    def rows(self, start: int, count: int, rows: Tensor) -> list[LayerCache]:
        """As `stretch`, for some of the cache's rows, `rows` (r,) int64; the batch has r rows."""
        slots = torch.arange(start, start + count, device=rows.device)
        return [Rows(layer, self.heads, slots, start + count, rows) for layer in self.store.unbind(0)]


@dataclass(frozen=True, slots=True)
class Views:
    """Slots known in advance.

    Attributes:
        place: the slots to write, (R, 2G, n, D).
        keys: those that queries see, (R, G, length, D), a view of the same memory.
        values: the same for values.
    """

    place: Tensor
    keys: Tensor
    values: Tensor

    def update(self, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        self.place.copy_(keys_values)
        return self.keys, self.values


@dataclass(frozen=True)
class Indexed:
    """Slots named by a tensor: a number that changes would make the compiler recompile, a tensor does not.

    Attributes:
        store: one layer's memory, (R, 2G, S, D).
        heads: G.
        slots: the slots to write, (n,) int64.
    """

    store: Tensor
    heads: int
    slots: Tensor

    def update(self, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        self.store.index_copy_(2, self.slots, keys_values)
        return self.store[:, : self.heads], self.store[:, self.heads :]


@dataclass(frozen=True)
class Rows:
    """Some of the rows, whose keys and values are copied.

    Attributes:
        store: one layer's memory, (R, 2G, S, D).
        heads: G.
        slots: the slots to write, (n,) int64.
        length: how many slots the queries see.
        rows: the rows, (r,) int64.
    """

    store: Tensor
    heads: int
    slots: Tensor
    length: int
    rows: Tensor

    def update(self, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        self.store[self.rows[:, None], :, self.slots] = keys_values.transpose(1, 2)
        seen = self.store[:, :, : self.length].index_select(0, self.rows)
        return seen[:, : self.heads], seen[:, self.heads :]
