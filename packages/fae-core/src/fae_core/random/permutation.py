"""A keyed permutation of a range, as a function: a Feistel network, so that 10^8 samples need no table."""

from __future__ import annotations

import numpy as np

from fae_core.random import derive_seed

_ROUNDS = 4


def permute(positions: np.ndarray, samples: int, key: int) -> np.ndarray:
    """A keyed permutation of range(samples), at some positions.

    Args:
        positions: (N,) integers below `samples`.
        samples: size of the range.
        key: which permutation.

    Returns:
        (N,) int64.
    """
    half_bits = max(1, (max(samples - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half_bits) - 1)
    keys = [np.uint64(derive_seed(key, "round", r)) for r in range(_ROUNDS)]
    values = positions.astype(np.uint64)
    pending = np.ones(len(values), dtype=bool)
    # The network permutes a power of four. Applying it until the value is inside the range keeps it a permutation.
    while pending.any():
        left, right = values[pending] >> np.uint64(half_bits), values[pending] & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        values[pending] = (left << np.uint64(half_bits)) | right
        pending = values >= samples
    return values.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
