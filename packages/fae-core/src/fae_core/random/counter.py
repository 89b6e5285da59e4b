"""Random numbers as a function of (key, slot, position), computed on any device in a few vectorised operations.

The generator is SplitMix64 (Steele, Lea and Flood, 2014): its output function applied to a Weyl sequence that starts at
a slot's own key. It gives 64 random bits for each position, in int64 arithmetic that wraps around.
`fae_core.random.SlotRandom` uses it where numbers are needed on a GPU.

Arguments of all functions: `key`, 63 bits; `slots`, (B,) int64 on the device of the result; `count`, numbers per slot.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _signed(constant: int) -> int:
    """An unsigned 64-bit integer as the signed one of the same bits."""
    return constant - 2**64 if constant >= 2**63 else constant


_STEP = _signed(0x9E3779B97F4A7C15)  # odd, so that a slot's sequence has the full period
_SLOT_STEP = _signed(0xD1342543DE82EF95)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def random_bits(key: int, slots: Tensor, count: int) -> Tensor:
    """(B, count) int64, all 64 bits random.

    Args:
        key: of the stream, 63 bits; see `derive_seed`.
        slots: (B,) int64, on the device where the numbers are wanted.
        count: how many numbers per slot.
    """
    start = _mix(slots * _SLOT_STEP + key)
    positions = torch.arange(1, count + 1, device=slots.device) * _STEP
    return _mix(start[:, None] + positions)


def uniform(key: int, slots: Tensor, count: int) -> Tensor:
    """(B, count) fp32 in [0, 1), multiples of 2^-24."""
    return _high_bits(random_bits(key, slots, count), 24).float() * 2.0**-24


def normal(key: int, slots: Tensor, count: int) -> Tensor:
    """(B, count) fp32, standard normal by the Box-Muller transform; at most 6.7 in absolute value."""
    bits = random_bits(key, slots, (count + 1) // 2)
    radius = ((_high_bits(bits, 32) + 1).float() * 2.0**-32).log_().mul_(-2).sqrt_()
    angle = (bits & 0xFFFFFFFF).float() * (2 * math.pi * 2.0**-32)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]


def integers(key: int, slots: Tensor, count: int, high: int) -> Tensor:
    """(B, count) int64 in [0, high); their probabilities differ by less than high / 2^63."""
    return _high_bits(random_bits(key, slots, count), 63) % high


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's output function, a bijection of 64 bits."""
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, places: int) -> Tensor:
    """Logical shift to the right; that of int64 is arithmetic."""
    return (x >> places) & (2 ** (64 - places) - 1)


def _high_bits(x: Tensor, count: int) -> Tensor:
    """The upper bits as a number."""
    return _shifted(x, 64 - count)
