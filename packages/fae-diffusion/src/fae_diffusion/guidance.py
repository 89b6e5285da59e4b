"""Guidance: how far a velocity is extrapolated beyond the conditional one, at which times, on which channels.

    v = v_uncond + scale (v_cond - v_uncond)        scale 1 = off; in Ho and Salimans (2022), w = scale - 1
    v + skip (v_cond - v_skipped)                   skip 0 = off; v_skipped by the network without some of its blocks

`Guidance` is configuration, read without torch; `guided_velocity.GuidedVelocity` applies it to a model.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from fae_core.config import Config, merge

if TYPE_CHECKING:
    from torch import Tensor

# Times of a grid are rounded: bounds hold within this much.
_TOLERANCE = 1e-6

Scale = Annotated[float, Field(ge=-1e6, le=1e6)]


class SkippedBlocks(Config):
    """Guidance away from what the network says without some of its blocks (SD3.5's skip-layer guidance).

    Attributes:
        blocks: which, from 0; the residual stream passes them unchanged.
        scale: of the difference that is added; 0 = off.
        interval: (low, high) times, both included, in which it acts.
    """

    blocks: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    scale: Scale
    interval: tuple[float, float] = (0.0, 1.0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        require_interval(self.interval)
        return self

    def scale_at(self, t: float) -> float:
        """The scale at time t; 0 outside the interval.

        Args:
            t: 1 is noise, 0 data.
        """
        return self.scale if within(t, self.interval) else 0.0


class Guidance(Config):
    """One scale on an interval of times, or several parts with a scale each. The paper's three parts in YAML:

        guidance: {parts: [[1.0, 0.9, 0.9], [0.9, 0.7, 1.0], [0.7, 0.0, 2.5]]}

    Attributes:
        scale: 1 = off.
        interval: (low, high) times, both included, in which the scale acts; t = 1 is noise. LightningDiT's
            cfg_interval_start a is (0, 1 - a).
        parts: (from, to, scale), times descending; `from` belongs to the part, `to` only where it is 0. Parts replace
            scale and interval; between parts guidance is off.
        channels: guide only the first so many channels; the code of SiT and LightningDiT guides 3. None: all.
        skip: guidance by skipped blocks, which is added to the other; None: none.
    """

    scale: Scale = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    parts: tuple[tuple[float, float, Scale], ...] = ()
    channels: int | None = Field(default=None, ge=1)
    skip: SkippedBlocks | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return _fields(value)

    def changed(self, given: Any) -> Any:
        """Guidance as a call gives it, over this: a scale takes the place of parts, and parts that of a scale.

        Args:
            given: Some of the fields, or a number, which is the scale; anything else, such as a Guidance, stands alone.
        """
        given = _fields(given)
        if not isinstance(given, Mapping):
            return given
        replaced = {"scale", "interval"} if given.get("parts") else {"parts"} if "scale" in given else set[str]()
        return merge(self.model_dump(exclude=replaced), given)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        require_interval(self.interval)
        if self.parts and (self.scale != 1.0 or self.interval != (0.0, 1.0)):
            raise ValueError("give parts, or a scale and an interval, not both")
        bounds = [t for part in self.parts for t in part[:2]]
        descends = all(a >= b for a, b in itertools.pairwise(bounds))
        if not descends or any(part[0] <= part[1] for part in self.parts) or not all(0 <= t <= 1 for t in bounds):
            raise ValueError("parts are [from, to, scale] with times that descend within [0, 1] and do not overlap")
        return self

    @property
    def is_on(self) -> bool:
        """Whether any time is guided by the condition "none", or by a worse model."""
        return any(part[2] != 1.0 for part in self.parts) if self.parts else self.scale != 1.0

    def scale_at(self, t: float) -> float:
        """The scale at time t; 1 where guidance is off.

        Args:
            t: 1 is noise, 0 data.
        """
        if not self.parts:
            return self.scale if within(t, self.interval) else 1.0
        for start, end, scale in self.parts:
            if t <= start + _TOLERANCE and (t > end + _TOLERANCE or end == 0):
                return scale
        return 1.0

    def combine(self, conditional: Tensor, other: Tensor, scale: float) -> Tensor:
        """The guided velocity: other + scale (conditional - other) on the guided channels, conditional on the rest.

        Args:
            conditional: velocity with the condition, (B, C, h, w).
            other: velocity without it, or of a worse model, (B, C, h, w).
            scale: 1 gives `conditional`.
        """
        if self.channels is None or self.channels >= conditional.shape[1]:
            return other.lerp(conditional, scale)
        guided = conditional.clone()
        guided[:, : self.channels] = other[:, : self.channels].lerp(conditional[:, : self.channels], scale)
        return guided


def _fields(value: Any) -> Any:
    """A number as the scale that it is; anything else as it is."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()  # a number of numpy, or of torch
    return {"scale": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


def require_interval(interval: tuple[float, float]) -> None:
    """Raise ValueError unless an interval of times is (low, high) within [0, 1]."""
    if not 0 <= interval[0] < interval[1] <= 1:
        raise ValueError(f"interval {interval} must be (low, high) within [0, 1]")


def within(t: float, interval: tuple[float, float]) -> bool:
    """Whether a time lies in an interval, its ends included."""
    return interval[0] - _TOLERANCE <= t <= interval[1] + _TOLERANCE


def __getattr__(name: str) -> Any:
    """GuidedVelocity, which stood here and needs torch; for one release."""
    if name == "GuidedVelocity":
        return importlib.import_module("fae_diffusion.guided_velocity").GuidedVelocity
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
