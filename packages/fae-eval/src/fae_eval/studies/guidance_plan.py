"""Which guidance scales a search measures."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fae_core.config import Config
from fae_core.config.limits import MOST_IMAGES
from fae_core.errors import InvalidSettings
from fae_core.models.sample_options import check_options

PAPER_INTERVAL, EVERY_TIME = (0.0, 0.7), (0.0, 1.0)
_MOST_SCALES = 1000


class GuidancePlan(Config):
    """Which scales are measured, from how many samples.

    Attributes:
        low: the smallest scale; 1 is off.
        high: the largest scale.
        step: between scales; 0.1 in the paper.
        interval: (low, high) times in which guidance acts, t = 1 is noise; "all" for every time. None: [0, 0.7] as in
            the paper's ablations where the generator has such an interval, else every time. Further fields of the
            generator's own guidance, such as channels, stay.
        count: samples of each of the best scales.
        first_count: samples of every scale, at most `count`.
        finalists: how many of the best scales of the first round are measured from `count` samples.
        options: further options of the generator's `sample`, without guidance.
    """

    low: float = Field(default=1.0, ge=0, le=1000)
    high: float = Field(default=4.0, ge=0, le=1000)
    step: float = Field(default=0.1, ge=0.001, le=1000)
    interval: tuple[float, float] | Literal["all"] | None = None
    count: int = Field(default=50_000, ge=1, le=MOST_IMAGES)
    first_count: int = Field(default=5_000, ge=1, le=MOST_IMAGES)
    finalists: int = Field(default=3, ge=1)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_a_grid(self) -> Self:
        if not 2 <= len(self.scales) <= _MOST_SCALES:
            raise ValueError(
                f"low {self.low:g}, high {self.high:g} and step {self.step:g} give {len(self.scales)} scales; "
                f"a search takes 2 to {_MOST_SCALES}"
            )
        if isinstance(self.interval, tuple) and not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise ValueError(f"interval {self.interval} must be (low, high) within [0, 1]")
        if "guidance" in self.options:
            raise ValueError("guidance is what is searched: give the range of scales and the interval instead")
        return self

    @property
    def scales(self) -> list[float]:
        """The grid, ascending, without the rounding of sums of steps."""
        count = max(0, math.floor((self.high - self.low) / self.step + 1e-9) + 1)
        return [round(self.low + i * self.step, 6) for i in range(min(count, _MOST_SCALES + 1))]

    def times(self, generator: Any) -> tuple[float, float] | None:
        """The interval for a generator or its class; None for one whose guidance has none.

        Raises:
            InvalidSettings: for an interval, where the generator's guidance has none.
        """
        try:
            check_options(generator, {"guidance": {"scale": 1.0, "interval": list(PAPER_INTERVAL)}})
        except InvalidSettings:
            if self.interval in (None, "all"):
                return None
            raise InvalidSettings("the guidance of this generator has no interval of times; leave it out") from None
        return EVERY_TIME if self.interval == "all" else self.interval or PAPER_INTERVAL

    def options_at(self, scale: float, times: tuple[float, float] | None) -> dict[str, Any]:
        """Options of `sample` at one scale."""
        guidance = scale if times is None else {"scale": scale, "interval": list(times)}
        return {**self.options, "guidance": guidance}
