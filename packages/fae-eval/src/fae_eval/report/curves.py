"""Curves of a training run: the loss and its terms on one chart, everything else on charts of its own."""

from __future__ import annotations

import re

from markupsafe import Markup

from fae_eval.figures.charts import Series, line_chart
from fae_eval.report.collect import Run
from fae_eval.results import Result, is_number

_ASIDE = (
    "learning_rate",
    "seconds",
    "step",
    "images_per_second",
    "samples_per_second",
    "gradient_norm",
    "grad_norm",
    "epoch",
)
_PER_CHART = 6


def run_charts(run: Run) -> list[Markup]:
    """Charts of the loss with its terms and, apart from these, of image quality; none where nothing was logged."""
    terms = [name for name in _names(run) if name not in _ASIDE and not _is_quality(name)]
    terms.sort(key=lambda name: name != "loss")
    quality = [name for name in _names(run) if _is_quality(name)]
    lines = _merged(run, terms)
    charts = [_chart(run, lines[i : i + _PER_CHART], run.name) for i in range(0, len(lines), _PER_CHART)]
    return charts + [_chart(run, [[name]], f"{run.name}: {name}") for name in quality]


def side_charts(run: Run) -> list[Markup]:
    """Learning rate, gradients and speed of a run, one chart each."""
    names = [name for name in _names(run) if name in _ASIDE and name not in ("step", "seconds")]
    return [_chart(run, [[name]], f"{run.name}: {name.replace('_', ' ')}") for name in names]


def convergence_charts(result: Result) -> list[Markup]:
    """Charts of distances over training; none for a record that is not about steps.

    Args:
        result: a record with a column "step" (and "seconds"), or rows named after three or more steps ("step-2000").
    """
    if "step" in result.columns:
        return _timed_charts(result)
    columns, found = result.columns, []
    for row in result.rows:
        step = re.search(r"(\d{1,15})\D*$", str(row[0]) if row else "")
        if step:
            found.append((int(step[1]), row))
    found.sort(key=lambda pair: pair[0])
    if len({step for step, _ in found}) < 3:
        return []
    charts = []
    for number, column in enumerate(columns):
        points = [(step, row[number]) for step, row in found if isinstance(row[number], float)]
        if len(points) >= 3:
            series = Series(str(column), [x for x, _ in points], [y for _, y in points])
            charts.append(line_chart([series], title=f"{column} over training"))
    return charts


def _timed_charts(result: Result) -> list[Markup]:
    columns = [str(column) for column in result.columns]
    at = columns.index("step")
    rows = sorted((row for row in result.rows if is_number(row[at])), key=lambda row: row[at])
    charts = []
    for number, column in enumerate(columns):
        kept = [row for row in rows if isinstance(row[number], float)]
        if column == "seconds" or len(kept) < 2:
            continue
        times = [row[columns.index("seconds")] for row in kept] if "seconds" in columns else []
        seconds = times if times and all(is_number(time) for time in times) else None
        series = Series(column, [row[at] for row in kept], [row[number] for row in kept], seconds)
        charts.append(line_chart([series], title=f"{column} over training"))
    return charts


def _names(run: Run) -> list[str]:
    return list(dict.fromkeys(name for row in run.rows for name in row))


def _is_quality(name: str) -> bool:
    return name.lower().startswith(("psnr", "ssim", "held_out"))


def _merged(run: Run, names: list[str]) -> list[list[str]]:
    """Names of the lines to draw; those with the same value at every step share one, or one would hide another."""
    lines: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for name in names:
        lines.setdefault(tuple((row["step"], row[name]) for row in run.rows if name in row), []).append(name)
    return list(lines.values())


def _chart(run: Run, lines: list[list[str]], title: str) -> Markup:
    """A chart of one line for each list of names that share it."""
    series = []
    for number, names in enumerate(lines):
        rows = [row for row in run.rows if names[0] in row]
        # The upper axis needs the times of one line.
        seconds = [row.get("seconds", 0.0) for row in rows] if number == 0 else None
        series.append(
            Series(" = ".join(names), [row["step"] for row in rows], [row[names[0]] for row in rows], seconds)
        )
    return line_chart(series, title=title)
