"""A chart of groups of runs as one SVG file: means with the range of their seeds, over steps or side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from fae_eval.figures.charts import BOX, Axis, draw, marks, padded
from fae_eval.studies.comparison import Group, shown_floor

_COLORS = (
    *("#2a6fdb", "#d1495b", "#2e933c", "#a05195", "#e59500", "#5c6b73"),
    *("#00a6a6", "#8d6e3a", "#e377c2", "#14213d", "#9bc53d", "#f28482"),
)
_LEGEND_ROW = 18
_LETTER, _LINE = 6.5, 14  # pixels of a name


def comparison_chart(
    groups: Sequence[Group], *, title: str, y_label: str, x_label: str = "step", first: float = 0
) -> str:
    """One <svg> document: curves with bands for groups of several steps, else a dot per run and a bar at the mean.

    Beside the name of the values stands the distance of real images, where the groups have it.

    Args:
        groups: what is drawn, in order.
        title: above the chart.
        y_label: name of the values.
        x_label: name of the steps.
        first: where the axis of the steps begins.
    """
    real = shown_floor(groups)
    y_label = f"{y_label} (real images: {real})" if real else y_label
    as_curves = all(len(group.steps) > 1 for group in groups)
    values = [value for group in groups for run in group.runs for value in run]
    upward = Axis(*padded(values, False), BOX.bottom, BOX.top, False)
    colored = [(group, _COLORS[number % len(_COLORS)], number) for number, group in enumerate(groups)]
    if as_curves:
        across = Axis(first, max(group.steps[-1] for group in groups), BOX.left, BOX.right, False)
        content = {
            "columns": marks(across),
            "x_label": x_label,
            "curves": [_curve(group, across, upward, color, number) for group, color, number in colored],
            "groups": [],
            "height": BOX.height + _LEGEND_ROW * ((len(groups) + 1) // 2),
        }
    else:
        width = (BOX.right - BOX.left) / len(groups)
        dots = [_dots(group, number, width, upward, color) for group, color, number in colored]
        content = {
            "columns": [],
            "x_label": "",
            "curves": [],
            "groups": dots,
            "line_height": _LINE,
            "height": BOX.height + _LINE * (max(len(each["name"]) for each in dots) - 1),
        }
    return draw("comparison.svg", title=title, y_label=y_label, rows=marks(upward), **content) + "\n"


def _curve(group: Group, across: Axis, upward: Axis, color: str, number: int) -> dict[str, Any]:
    columns = list(zip(*group.runs, strict=True))
    low = [(across.place(s), upward.place(min(v))) for s, v in zip(group.steps, columns, strict=True)]
    high = [(across.place(s), upward.place(max(v))) for s, v in zip(group.steps, columns, strict=True)]
    mean = [(across.place(s), upward.place(m)) for s, m in zip(group.steps, group.means(), strict=True)]
    several = f" ({len(group.runs)} runs)" if len(group.runs) > 1 else ""
    return {
        "name": f"{group.name}{several}",
        "color": color,
        "band": _points([*low, *reversed(high)]),
        "mean": _points(mean),
        "dots": [(round(x, 1), round(y, 1)) for x, y in mean] if len(mean) <= 20 else [],
        "legend": (
            BOX.left + (number % 2) * (BOX.width - BOX.left) / 2,
            BOX.height + (number // 2) * _LEGEND_ROW + 4,
        ),
    }


def _dots(group: Group, number: int, width: float, upward: Axis, color: str) -> dict[str, Any]:
    return {
        # In lines, so that neighbours' names do not overlap.
        "name": textwrap.wrap(group.name, max(1, int(width / _LETTER))) or [""],
        "color": color,
        "x": round(BOX.left + (number + 0.5) * width, 1),
        "mean": round(upward.place(group.mean), 1),
        "dots": [round(upward.place(value), 1) for value in group.last],
    }


def _points(pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)
