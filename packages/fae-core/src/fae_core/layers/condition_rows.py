"""How many samples a condition is for, whatever kind it is of."""

from __future__ import annotations

from typing import Any, TypeGuard

from torch import Tensor

from fae_core.errors import FAEError
from fae_core.random import SlotRandom


def sample_count(condition: Any, noise: Tensor | None = None, random: SlotRandom | None = None) -> int:
    """How many samples a call of `sample` makes: the rows of its condition, else of its noise, else the slots.

    Args:
        condition: Labels (B,), texts, embeddings (B, L, D) alone or with their mask, anything with a length; or None.
        noise: (B, C, h, w), or None.
        random: Of B slots, or None.

    Raises:
        FAEError: Nothing says how many, the first that is given has no axis for the batch, or there are none.
    """
    for given in (condition, noise, random):
        if given is None:
            continue
        rows = given[0] if is_masked_text(given) else given
        if isinstance(rows, str) or not hasattr(rows, "__len__") or getattr(rows, "ndim", 1) == 0:
            raise FAEError(f"conditions, noise and random are one per sample, (B, ...); got {str(rows)[:60]} alone")
        if len(rows) == 0:
            raise FAEError("there is nothing to sample: the batch is empty")
        return len(rows)
    raise FAEError("sample needs a condition, noise or random to know how many samples to make")


def is_masked_text(condition: Any) -> TypeGuard[tuple[Tensor, Tensor]]:
    """Whether a condition is embeddings with their mask, and not a sequence of conditions.

    Args:
        condition: As of `sample_count`.
    """
    pair = isinstance(condition, tuple | list) and len(condition) == 2
    return pair and all(isinstance(part, Tensor) and part.ndim > 1 for part in condition)
