"""Keys and values of the tokens decided so far, in memory that is allocated once per block and sample call.

Shapes: L layers, R rows, S slots (prefix + steps), G key heads, D head dimension, n tokens of a stretch. Keys are stored
rotated, so a step rotates only its own; the original rotates its whole prefix again at every step.

A step opens the cache once for all layers (`stretch`, `indexed` or `rows`); each layer then gets a view whose `update`
stores (R, 2G, n, D) and returns the keys and values that its queries see, (R, G, length, D) each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class LayerCache(Protocol):
    """One layer's keys and values during one step."""

    def update(self, keys_values: Tensor) -> tuple[Tensor, Tensor]: ...


class BlockCache:
    """Of all layers of a block, (L, R, 2G, S, D): what one head reads lies together."""

    def __init__(
        self, layers: int, rows: int, slots: int, heads: int, head_dim: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.heads = heads
        # Zeros, not empty: slots that a mask hides are still multiplied, and 0 * nan is nan.
        self.store = torch.zeros(layers, rows, 2 * heads, slots, head_dim, device=device, dtype=dtype)

    def stretch(self, start: int, count: int) -> list[LayerCache]:
        """Write slots start .. start + count - 1, see all up to them. The views of all layers are cut in a few calls."""
        length = start + count
        places = self.store.narrow(3, start, count).unbind(0)
        keys, values = self.store.narrow(3, 0, length).chunk(2, 2)
        return [Views(*views) for views in zip(places, keys.unbind(0), values.unbind(0), strict=True)]

    def indexed(self, slots: Tensor) -> list[LayerCache]:
        """Write `slots` (n,) int64, whose values only the device knows; see every slot, so that shapes never change."""
        return [Indexed(layer, self.heads, slots) for layer in self.store.unbind(0)]

    def rows(self, start: int, count: int, rows: Tensor) -> list[LayerCache]:
        """As `stretch`, for the cache's rows that `rows` (r,) int64 names; the batch is as long as they are."""
        slots = torch.arange(start, start + count, device=rows.device)
        return [Rows(layer, self.heads, slots, start + count, rows) for layer in self.store.unbind(0)]


@dataclass(frozen=True, slots=True)
class Views:
    """Slots known in advance: place (R, 2G, n, D), keys and values (R, G, length, D) share memory with it."""

    place: Tensor
    keys: Tensor
    values: Tensor

    def update(self, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        self.place.copy_(keys_values)
        return self.keys, self.values


@dataclass(frozen=True)
class Indexed:
    """Slots named by a tensor. A number that changes would make a compiler start over; a tensor does not."""

    store: Tensor
    heads: int
    slots: Tensor

    def update(self, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        self.store.index_copy_(2, self.slots, keys_values)
        return self.store[:, : self.heads], self.store[:, self.heads :]


@dataclass(frozen=True)
class Rows:
    """Some of the rows: what they see is copied together."""

    store: Tensor
    heads: int
    slots: Tensor
    length: int
    rows: Tensor

    def update(self, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        self.store[self.rows[:, None], :, self.slots] = keys_values.transpose(1, 2)
        seen = self.store[:, :, : self.length].index_select(0, self.rows)
        return seen[:, : self.heads], seen[:, self.heads :]
