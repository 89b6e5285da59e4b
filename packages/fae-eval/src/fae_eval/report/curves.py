"""Curves of a training run: the loss and its terms on one chart, everything else apart."""

from __future__ import annotations

from fae_eval.figures.charts import Series, line_chart
from fae_eval.report.collect import Run

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


def run_charts(run: Run) -> str:
    """The loss with its terms, and picture quality apart; "" where the journal is empty."""
    terms = [name for name in _names(run) if name not in _ASIDE and not _is_quality(name)]
    terms.sort(key=lambda name: name != "loss")
    quality = [name for name in _names(run) if _is_quality(name)]
    charts = [_chart(run, terms[i : i + _PER_CHART], run.name) for i in range(0, len(terms), _PER_CHART)]
    return "".join(charts + [_chart(run, [name], f"{run.name}: {name}") for name in quality])


def side_charts(run: Run) -> str:
    """Learning rate, gradients, speed: one small chart each."""
    names = [name for name in _names(run) if name in _ASIDE and name not in ("step", "seconds")]
    return "".join(_chart(run, [name], f"{run.name}: {name.replace('_', ' ')}") for name in names)


def _names(run: Run) -> list[str]:
    return list(dict.fromkeys(name for row in run.rows for name in row))


def _is_quality(name: str) -> bool:
    return name.lower().startswith(("psnr", "ssim", "held_out"))


def _chart(run: Run, names: list[str], title: str) -> str:
    series = []
    for number, name in enumerate(names):
        rows = [row for row in run.rows if name in row]
        # One clock is enough for the upper axis.
        seconds = [row.get("seconds", 0.0) for row in rows] if number == 0 else None
        series.append(Series(name, [row["step"] for row in rows], [row[name] for row in rows], seconds))
    return line_chart(series, title=title)
