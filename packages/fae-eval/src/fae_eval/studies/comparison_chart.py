"""A chart of groups of runs as one SVG file: means with the range of their seeds, over steps or side by side."""

from __future__ import annotations

import html
from collections.abc import Sequence

from fae_eval.figures.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, frame, padded
from fae_eval.studies.comparison import Group

_COLORS = ("#2a6fdb", "#d1495b", "#2e933c", "#a05195", "#e59500", "#5c6b73")
_STYLE = (
    "text{font-family:system-ui,sans-serif;font-size:12px;fill:#333}.tick{font-size:11px;fill:#666}"
    ".grid{stroke:#e4e4e4}.axis{stroke:#888}.title{font-weight:600;font-size:13px}"
)
_LEGEND_ROW = 18


def comparison_chart(groups: Sequence[Group], *, title: str, y_label: str, x_label: str = "step") -> str:
    """One <svg> document: curves with bands for groups of several steps, else a dot per run and a bar at the mean.

    Args:
        groups: what is drawn, in order.
        title: above the chart.
        y_label: name of the values.
        x_label: name of the steps.
    """
    curves = all(len(group.steps) > 1 for group in groups)
    values = [value for group in groups for run in group.runs for value in run]
    upward = Axis(*padded(values, False), HEIGHT - BOTTOM, TOP, False)
    if curves:
        last = max(group.steps[-1] for group in groups)
        across = Axis(0, last, LEFT, WIDTH - RIGHT, False)
        parts = frame(across, upward, x_label, y_label)
        for number, group in enumerate(groups):
            parts += _curve(group, across, upward, _COLORS[number % len(_COLORS)])
    else:
        parts = frame(None, upward, "", y_label)
        for number, group in enumerate(groups):
            x = LEFT + (number + 0.5) * (WIDTH - RIGHT - LEFT) / len(groups)
            parts += _dots(group, x, upward, _COLORS[number % len(_COLORS)])
    legend = _legend(groups) if curves else []
    height = HEIGHT + _LEGEND_ROW * ((len(groups) + 1) // 2 if curves else 0)
    heading = f'<text class="title" x="{LEFT}" y="20">{html.escape(title)}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="white"/>{heading}'
        f"{''.join(parts + legend)}</svg>\n"
    )


def _curve(group: Group, across: Axis, upward: Axis, color: str) -> list[str]:
    columns = list(zip(*group.runs, strict=True))
    low = [(across.place(s), upward.place(min(v))) for s, v in zip(group.steps, columns, strict=True)]
    high = [(across.place(s), upward.place(max(v))) for s, v in zip(group.steps, columns, strict=True)]
    mean = [(across.place(s), upward.place(m)) for s, m in zip(group.steps, group.means(), strict=True)]
    band = _points([*low, *reversed(high)])
    few = mean if len(mean) <= 20 else []
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>' for x, y in few)
    return [
        f'<polygon points="{band}" fill="{color}" fill-opacity="0.18"/>',
        f'<polyline points="{_points(mean)}" fill="none" stroke="{color}" stroke-width="2"/>{dots}',
    ]


def _dots(group: Group, x: float, upward: Axis, color: str) -> list[str]:
    y = upward.place(group.mean)
    dots = [
        f'<circle cx="{x:.1f}" cy="{upward.place(value):.1f}" r="4" fill="{color}" fill-opacity="0.6"/>'
        for value in group.last
    ]
    name = f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{html.escape(group.name)}</text>'
    return [
        *dots,
        f'<line x1="{x - 16:.1f}" x2="{x + 16:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{color}" stroke-width="2.5"/>',
        name,
    ]


def _legend(groups: Sequence[Group]) -> list[str]:
    parts = []
    for number, group in enumerate(groups):
        x = LEFT + (number % 2) * (WIDTH - LEFT) / 2
        y = HEIGHT + (number // 2) * _LEGEND_ROW + 4
        several = f" ({len(group.runs)} runs)" if len(group.runs) > 1 else ""
        parts.append(f'<rect x="{x}" y="{y - 9}" width="14" height="10" fill="{_COLORS[number % len(_COLORS)]}"/>')
        parts.append(f'<text x="{x + 20}" y="{y}">{html.escape(group.name)}{several}</text>')
    return parts


def _points(pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)
