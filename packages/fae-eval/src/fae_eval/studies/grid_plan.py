"""Which sampling options a grid measures. torch is not imported, so that they are checked at once."""

from __future__ import annotations

import itertools
from typing import Any

from pydantic import Field, model_validator

from fae_core.config import Config
from fae_core.config.limits import MOST_IMAGES

_MOST = 10_000


class SamplingGrid(Config):
    """Which options are measured.

    Attributes:
        vary: the values of each option of the generator's `sample`, by name; every combination is measured.
        count: samples of each combination.
        within: a distance counts as good where it is at most this share above the smallest.
        options: further options of `sample`, the same for all.
    """

    vary: dict[str, list[Any]]
    count: int = Field(default=5_000, ge=1, le=MOST_IMAGES)
    within: float = Field(default=0.02, ge=0, le=1)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_a_grid(self) -> SamplingGrid:
        if not self.vary or not all(self.vary.values()):
            raise ValueError("a grid takes one option or more, each with one value or more")
        twice = sorted(self.vary.keys() & self.options.keys())
        if twice:
            raise ValueError(f"{', '.join(twice)} is both varied and fixed")
        total = 1
        for name, values in self.vary.items():
            if len({str(value) for value in values}) < len(values):
                raise ValueError(f"{name} has a value twice")
            total *= len(values)
        if total > _MOST:
            raise ValueError(f"the grid has {total:,} combinations; at most {_MOST:,}")
        return self

    @property
    def points(self) -> list[dict[str, Any]]:
        """The combinations, the last option changing fastest."""
        return [dict(zip(self.vary, values, strict=True)) for values in itertools.product(*self.vary.values())]
