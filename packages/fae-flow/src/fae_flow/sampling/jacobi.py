"""Block-Jacobi decoding: guess a stretch of tokens, compute all their means and scales at once, decide again, repeat.

After i passes the first i tokens of a stretch are exact, because each depends on earlier tokens only; in a trained flow most
of the others have settled long before. A sample stops when its own last change is below the tolerance, whatever the rest of
the batch does, so a result does not depend on the batch. A stretch that has not settled is finished exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fae_core.errors import FAEError

if TYPE_CHECKING:
    from fae_flow.sampling.decoding import BlockDecoder


@dataclass(frozen=True)
class Jacobi:
    """How to decode in stretches.

    stretch: tokens decided together. tolerance: a sample has settled when mean((new - old)^2) < tolerance * mean(new^2) over
    the stretch; 0 decodes exactly. max_passes: after so many, the tokens still in doubt are decoded one by one; None = as
    many as the stretch is long, by when everything is exact. per_sample: off, the whole batch stops together on its mean
    change, as in the original.
    """

    stretch: int = 16
    tolerance: float = 1e-3
    max_passes: int | None = None
    per_sample: bool = True

    def __post_init__(self) -> None:
        counts = [n for n in (self.stretch, self.max_passes) if n is not None]
        if not all(isinstance(n, int) and n >= 1 for n in counts) or not 0 <= self.tolerance < math.inf:
            raise FAEError("jacobi needs whole numbers stretch >= 1 and max_passes >= 1, and a finite tolerance >= 0")

    @classmethod
    def parse(cls, value: Jacobi | Mapping[str, Any] | None) -> Jacobi | None:
        """From a mapping of its fields, as the command line gives it."""
        if value is None or isinstance(value, cls):
            return value
        try:
            return cls(**value)
        except TypeError:
            raise FAEError(f"jacobi takes stretch, tolerance, max_passes and per_sample, not {value!r}") from None


def decode_jacobi(decoder: BlockDecoder, options: Jacobi) -> None:
    """Decode a block in stretches. The first guess for a token is its noise, which `tokens` already holds."""
    for start in range(0, decoder.steps, options.stretch):
        count = min(options.stretch, decoder.steps - start)
        rows = None  # samples still moving; None = all of them
        for done in range(1, min(count, options.max_passes or count) + 1):
            old = decoder.tokens[:, start + 1 : start + 1 + count]
            old = old.clone() if rows is None else old[rows]
            new = decoder.write(start, *decoder.step(start, count, rows), rows)
            if done == count:
                break  # exact: every input was decided by the pass before
            moving = _moving(old, new, options)
            if moving.all():
                continue
            rows = moving.nonzero()[:, 0] if rows is None else rows[moving]
            if not len(rows):
                break
        else:
            # The first `done` tokens are exact, and so are the keys of the inputs that decided them.
            for step in range(start + done, start + count):
                decoder.write(step, *decoder.step(step, 1, rows), rows)


def _moving(old: Tensor, new: Tensor, options: Jacobi) -> Tensor:
    """Which samples have not settled, (b,) bool."""
    change, size = (new - old).square().flatten(1).mean(1), new.square().flatten(1).mean(1)
    if not options.per_sample:
        change, size = change.mean().expand(len(new)), size.mean().expand(len(new))
    return ~(change < options.tolerance * size)
