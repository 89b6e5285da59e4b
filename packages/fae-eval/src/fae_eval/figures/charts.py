"""Line charts as small SVG: axes, round ticks, a legend, a second axis for seconds.

Colours come from the page's CSS variables (--c1 .. --c6, --text, --muted, --grid), so that a chart suits light and dark
pages.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fae_eval.results import LARGEST

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 34, 44
_COLORS = 6


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
) -> str:
    """An HTML <figure> with one <svg> and its legend; "" where there is nothing to draw.

    Points that are not finite, or beyond 1e100, are left out.

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
        return ""
    values = [y for one in lines for y in one.y]
    if log_y is None:
        log_y = min(values) > 0 and max(values) / min(values) > 30
    if log_y and min(values) <= 0:
        log_y = False
    x_low, x_high = min(one.x[0] for one in lines), max(one.x[-1] for one in lines)
    across = Axis(x_low, x_high if x_high > x_low else x_low + 1, LEFT, WIDTH - RIGHT, False)
    upward = Axis(*padded(values, log_y), HEIGHT - BOTTOM, TOP, log_y)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}" '
        'xmlns="http://www.w3.org/2000/svg">'
    ]
    parts += frame(across, upward, x_label, y_label)
    parts += _seconds_axis(lines, across)
    for number, one in enumerate(lines):
        color = f"var(--c{number % _COLORS + 1})"
        points = " ".join(f"{across.place(x):.1f},{upward.place(y):.1f}" for x, y in _thinned(one))
        if len(one.x) == 1:
            x, y = points.split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="{color}"/>')
        else:
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2" stroke-linejoin="round"/>'
            )
    parts.append("</svg>")
    legend = "".join(
        f'<span><i style="background:var(--c{number % _COLORS + 1})"></i>{html.escape(one.name)} '
        f"<b>{_number(one.y[-1])}</b></span>"
        for number, one in enumerate(lines)
    )
    return (
        f'<figure class="plot"><figcaption>{html.escape(title)}</figcaption>{"".join(parts)}'
        f'<div class="legend">{legend}</div></figure>'
    )


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
        """The coordinate of a value."""
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        part = ((math.log10(value) if self.log else value) - low) / (high - low)
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values along the axis."""
        if not self.log:
            return ticks(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        digits = (1, 2, 5) if self.high / self.low < 300 else (1,)
        return [d * 10.0**e for e in decades for d in digits if self.low <= d * 10.0**e <= self.high]


def frame(across: Axis | None, upward: Axis, x_label: str, y_label: str) -> list[str]:
    """SVG of grid, ticks, axes and their names.

    Args:
        across: the x axis; None where positions along it have names of their own.
        upward: the y axis.
        x_label: name of the x axis.
        y_label: name of the y axis; "" for none.
    """
    parts = []
    for value in upward.ticks():
        y = upward.place(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    places = [] if across is None else [(across.place(value), value) for value in across.ticks()]
    for x, value in places:
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{_number(value)}</text>'
        )
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="name" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x_label)}</text>')
    if y_label:
        centre = (TOP + base) / 2
        parts.append(
            f'<text class="name" x="14" y="{centre}" text-anchor="middle" transform="rotate(-90 14 {centre})">'
            f"{html.escape(y_label)}</text>"
        )
    return parts


def _seconds_axis(lines: Sequence[Series], across: Axis) -> list[str]:
    """Seconds above the chart, at the steps where round times were reached; only where one line has times."""
    timed = [(one.seconds, one.x) for one in lines if one.seconds]
    if len(timed) != 1 or len(timed[0][1]) < 2 or timed[0][0][-1] <= timed[0][0][0]:
        return []
    (seconds, steps), parts = timed[0], []
    for value in ticks(seconds[0], seconds[-1], 5):
        x = across.place(_interpolate(value, seconds, steps))
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 5}" y2="{TOP}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{TOP - 10}" text-anchor="middle">{_number(value)} s</text>')
    return parts


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
