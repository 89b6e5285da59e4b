"""Random numbers (slots, counter) and permutations that are pure functions of a seed and a position."""

from fae_core.random.slots import SlotRandom, derive_seed

__all__ = ["SlotRandom", "derive_seed"]
