"""Line charts as small SVG: axes, round ticks, a legend, a second axis for seconds.

Colours come from the page's CSS variables (--c1 .. --c6, --text, --muted, --grid), so that a chart suits light and dark
pages.
"""

from __future__ import annotations

import bisect
import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from fae_eval.figures.markup import templates
from fae_eval.results import LARGEST

_COLORS = 6
_BANDS = 80  # places along a chart that show values


@dataclass(frozen=True)
class Box:
    """Size of a chart, and of the part inside its axes, in pixels."""

    width: int = 560
    height: int = 300
    left: int = 58
    right: int = 544
    top: int = 34
    bottom: int = 256

    @property
    def middle(self) -> float:
        """Half-way along the x axis."""
        return (self.left + self.right) / 2

    @property
    def centre(self) -> float:
        """Half-way up the y axis."""
        return (self.top + self.bottom) / 2


BOX = Box()


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: for the legend.
        x: in ascending order.
        y: one value for each x.
        seconds: time at each x, for the upper axis; None for no such axis.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    seconds: Sequence[float] | None = None


def line_chart(
    series: Sequence[Series], *, title: str, x_label: str = "step", y_label: str = "", log_y: bool | None = None
) -> Markup:
    """An HTML <figure> with one <svg> and its legend; "" where there is nothing to draw.

    Values show under the pointer. Points that are not finite, or beyond 1e100, are left out.

    Args:
        series: the lines.
        title: above the chart.
        x_label: name of the x axis.
        y_label: name of the y axis; "" for none.
        log_y: whether the y axis is logarithmic; None makes it so for positive values over more than a factor of 30.
    """
    lines = [_clean(one) for one in series]
    lines = [one for one in lines if one.x]
    if not lines:
        return Markup("")
    values = [y for one in lines for y in one.y]
    if log_y is None:
        log_y = min(values) > 0 and max(values) / min(values) > 30
    if log_y and min(values) <= 0:
        log_y = False
    x_low, x_high = min(one.x[0] for one in lines), max(one.x[-1] for one in lines)
    across = Axis(x_low, x_high if x_high > x_low else x_low + 1, BOX.left, BOX.right, False)
    upward = Axis(*padded(values, log_y), BOX.bottom, BOX.top, log_y)
    return draw(
        "line_chart.html",
        title=title,
        x_label=x_label,
        y_label=y_label,
        rows=marks(upward),
        columns=marks(across),
        times=_seconds_axis(lines, across),
        lines=[
            {
                "name": one.name,
                "color": number % _COLORS + 1,
                "points": [(_tenth(across.place(x)), _tenth(upward.place(y))) for x, y in _thinned(one)],
                "last": _number(one.y[-1]),
            }
            for number, one in enumerate(lines)
        ],
        bands=_bands(lines, across),
    )


def draw(name: str, **content: Any) -> Markup:
    """A chart from its template, without line breaks between its parts.

    Args:
        name: the template.
        **content: what it shows, besides the chart's `box`.
    """
    drawn = _templates().get_template(name).render(box=BOX, **content)
    return Markup(re.sub(r">\s*\n\s*<", "><", drawn.strip()))


@functools.cache
def _templates() -> Environment:
    return templates(Path(__file__).with_name("templates"))


def ticks(low: float, high: float, most: int = 8) -> list[float]:
    """At most `most` round numbers (1, 2 or 5 times a power of ten) between low and high."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / most))
    factor = next(f for f in (1, 2, 5, 10) if span / (step * f) < most)
    step *= factor
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Axis:
    """An axis that maps values to coordinates of the chart.

    Attributes:
        low: value at `start`.
        high: value at `end`.
        start: coordinate of `low`.
        end: coordinate of `high`.
        log: whether it is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool

    def place(self, value: float) -> float:
        """The coordinate of a value; `start` on an axis of a single value."""
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        if low == high:
            return self.start
        part = ((math.log10(value) if self.log else value) - low) / (high - low)
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values along the axis."""
        if not self.log:
            return ticks(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        digits = (1, 2, 5) if self.high / self.low < 300 else (1,)
        return [d * 10.0**e for e in decades for d in digits if self.low <= d * 10.0**e <= self.high]


def marks(axis: Axis) -> list[tuple[float, str]]:
    """Coordinates and texts of an axis' ticks."""
    return [(_tenth(axis.place(value)), _number(value)) for value in axis.ticks()]


def _seconds_axis(lines: Sequence[Series], across: Axis) -> list[tuple[float, str]]:
    """Round times above the chart, at the steps where they were reached; only where one line has times."""
    timed = [(one.seconds, one.x) for one in lines if one.seconds]
    if len(timed) != 1 or len(timed[0][1]) < 2 or timed[0][0][-1] <= timed[0][0][0]:
        return []
    seconds, steps = timed[0]
    reached = [(value, _interpolate(value, seconds, steps)) for value in ticks(seconds[0], seconds[-1], 5)]
    return [(_tenth(across.place(step)), _number(value)) for value, step in reached]


def _bands(lines: Sequence[Series], across: Axis) -> list[dict[str, Any]]:
    """Vertical bands of the chart, and what they show while the pointer is in them: each line's value there."""
    if across.high <= across.low:
        return []
    every = sorted({x for one in lines for x in one.x})
    steps = [every[round(i * (len(every) - 1) / (_BANDS - 1))] for i in range(_BANDS)] if len(every) > _BANDS else every
    places = [across.place(step) for step in steps]
    edges = [BOX.left, *((a + b) / 2 for a, b in pairwise(places)), BOX.right]
    bands = []
    for step, place, left, right in zip(steps, places, edges, edges[1:], strict=False):
        known = [
            (number % _COLORS + 1, one.name, _number(one.y[_nearest(one.x, step)]))
            for number, one in enumerate(lines)
            if one.x[0] <= step <= one.x[-1]
        ]
        band = {"left": _tenth(left), "width": _tenth(right - left), "x": _tenth(place), "at": _exact(step)}
        bands.append({**band, "shown": known})
    return bands


def _nearest(places: Sequence[float], wanted: float) -> int:
    """Index of the ascending place that is nearest."""
    after = bisect.bisect_left(places, wanted)
    if after == 0 or (after < len(places) and places[after] - wanted <= wanted - places[after - 1]):
        return after
    return after - 1


def _tenth(value: float) -> float:
    return round(value, 1)


def _exact(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"


def _interpolate(value: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    for i in range(1, len(xs)):
        if xs[i] >= value:
            span = xs[i] - xs[i - 1]
            part = (value - xs[i - 1]) / span if span > 0 else 1.0
            return ys[i - 1] + part * (ys[i] - ys[i - 1])
    return ys[-1]


def _clean(one: Series) -> Series:
    kept = [i for i, (x, y) in enumerate(zip(one.x, one.y, strict=True)) if abs(x) < LARGEST and abs(y) < LARGEST]
    seconds = [one.seconds[i] for i in kept] if one.seconds is not None else None
    return Series(one.name, [one.x[i] for i in kept], [one.y[i] for i in kept], seconds)


def _thinned(one: Series, most: int = 400) -> list[tuple[float, float]]:
    """At most `most` points: means of groups of equal size, so that the course stays visible under noise."""
    if len(one.x) <= most:
        return list(zip(one.x, one.y, strict=True))
    edges = [round(i * len(one.x) / most) for i in range(most + 1)]
    return [(sum(one.x[a:b]) / (b - a), sum(one.y[a:b]) / (b - a)) for a, b in pairwise(edges)]


def padded(values: Sequence[float], log: bool) -> tuple[float, float]:
    """Ends of an axis: a little more than the range of the values, from zero where they come near it.

    Args:
        values: what is drawn.
        log: whether the axis is logarithmic.
    """
    low, high = min(values), max(values)
    if log:
        return low / 1.1, high * 1.1
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < 0.35 * high else low - room), high + room


def _number(value: float) -> str:
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if size >= 1e3:
        return f"{value:,.0f}"
    return f"{value:.3g}" if size >= 1e-3 else f"{value:.0e}"
