"""Block-Jacobi decoding: guess a stretch of tokens, compute all means and scales in one pass, decide again, repeat.

After i passes the first i tokens of a stretch are exact, because each depends only on earlier tokens; in a trained flow
most of the others converge much earlier. A sample stops when its own last change is below the tolerance, so a result
does not depend on the rest of the batch. A stretch that has not converged is finished exactly.
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

    Attributes:
        stretch: tokens decided together, at least 1.
        tolerance: a sample has converged when mean((new - old)^2) < tolerance * mean(new^2) over the stretch;
            0 is exact.
        max_passes: number of passes after which the tokens that are not exact are decoded one by one; None = as many as
            the stretch is long, after which all are exact.
        per_sample: each sample stops by itself; False = the batch stops together on its mean change, as
            in the original.

    Raises:
        FAEError: for values out of range.
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
        """Options from a mapping of their fields, as the command line gives them.

        Args:
            value: Options, a mapping of their fields, or None, which stays None.

        Raises:
            FAEError: for an unknown field or a value out of range.
        """
        if value is None or isinstance(value, Jacobi):
            return value
        try:
            return cls(**value)
        except TypeError:
            raise FAEError(f"jacobi takes stretch, tolerance, max_passes and per_sample, not {value!r}") from None


def decode_jacobi(decoder: BlockDecoder, options: Jacobi) -> None:
    """Decode a block in stretches. The first guess for a token is its noise, which `decoder.tokens` already holds."""
    for start in range(0, decoder.steps, options.stretch):
        count = min(options.stretch, decoder.steps - start)
        passes = min(count, options.max_passes or count)
        rows = None  # samples that have not converged; None = all of them
        for done in range(1, passes + 1):
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
            # The first `passes` tokens are exact, and so are the keys of the inputs that decided them.
            for step in range(start + passes, start + count):
                decoder.write(step, *decoder.step(step, 1, rows), rows)


def _moving(old: Tensor, new: Tensor, options: Jacobi) -> Tensor:
    """Which samples have not converged, (b,) bool."""
    change, size = (new - old).square().flatten(1).mean(1), new.square().flatten(1).mean(1)
    if not options.per_sample:
        change, size = change.mean().expand(len(new)), size.mean().expand(len(new))
    return ~(change < options.tolerance * size)
