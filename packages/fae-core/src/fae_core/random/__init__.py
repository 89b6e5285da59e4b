"""Random numbers (slots, counter) and orders (permutation) that are pure functions of a seed and a place."""

from fae_core.random.slots import SlotRandom, derive_seed

__all__ = ["SlotRandom", "derive_seed"]
