"""Curves of a training run: the loss and its terms on one chart, everything else on charts of its own."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from fae_core.folders import named_step
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
        result: a record with a column "step" (and "seconds"), or with two or more rows named as the folders of
            checkpoints or of kept models are ("step-00002000", "step-2000"), which samples drawn from these have.
    """
    columns = [str(column) for column in result.columns]
    found = sorted(_steps(columns, result.rows), key=lambda pair: pair[0])
    charts = []
    for number, column in enumerate(columns):
        kept = [(step, row) for step, row in found if isinstance(row[number], float)]
        if column in ("step", "seconds") or len(kept) < 2:
            continue
        times = [row[columns.index("seconds")] for _, row in kept] if "seconds" in columns else []
        seconds = times if times and all(is_number(time) for time in times) else None
        series = Series(column, [step for step, _ in kept], [row[number] for _, row in kept], seconds)
        charts.append(line_chart([series], title=f"{column} over training"))
    return charts


def _steps(columns: list[str], rows: list[list[Any]]) -> list[tuple[float, list[Any]]]:
    """The rows of a table that are about a step, each with it. No other number in a name is taken for a step."""
    if "step" in columns:
        at = columns.index("step")
        return [(row[at], row) for row in rows if is_number(row[at])]
    named = [(named_step(str(row[0])), row) for row in rows if row]
    return [(step, row) for step, row in named if step is not None]


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
