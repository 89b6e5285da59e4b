"""Random numbers (slots, counter) and permutations that are pure functions of a seed and a position."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names

if TYPE_CHECKING:
    from fae_core.random.seeds import derive_seed as derive_seed
    from fae_core.random.slots import SlotRandom as SlotRandom

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names]
