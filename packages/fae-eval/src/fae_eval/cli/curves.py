"""`fae eval curves`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fae_core.cli.options import Overwrite
from fae_core.commands.output import say
from fae_core.commands.running import command_line
from fae_eval.cli.options import Title, names_and_paths

if TYPE_CHECKING:
    from fae_eval.studies.comparison import Group


def curves(
    runs: Annotated[list[str], typer.Argument(help="NAME=RUN, one per line of the chart; run folders of any kind.")],
    out: Annotated[Path, typer.Option("--out", help="SVG file to write.")],
    value: Annotated[str, typer.Option("--value", help="What to draw: a name in the runs' metrics.jsonl.")] = "loss",
    title: Title = None,
    overwrite: Overwrite = False,
) -> None:
    """A value over the training of several runs, as one SVG chart over the share of each run's steps.

    Runs of different lengths share the axis, from 0 to 100 % of their steps.

    Example: fae eval curves "Ia=runs/autoencoder" "Ib=runs/pixel" "II=runs/fae" --value unexplained --out curves.svg
    """
    from fae_core.errors import FAEError
    from fae_core.files import claim_file, disk_errors, write_atomic
    from fae_eval.studies.comparison_chart import comparison_chart

    if out.suffix != ".svg":
        raise FAEError(f"--out {out} must end in .svg")
    claim_file(out, overwrite=overwrite)
    folders = names_and_paths(runs, "line", "NAME=RUN")
    lines = [_line(name, folder, value) for name, folder in folders.items()]
    drawn = comparison_chart(lines, title=title or value, x_label="% of the run", y_label=value)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, drawn.encode(errors="replace"))
    say(f"wrote {out}; next: {command_line('eval report', *folders.values())}, for all that the runs logged")


def _line(name: str, folder: str, value: str) -> Group:
    """A run as a curve of at most a hundred points. Raises FAEError where it has no such values."""
    from fae_core.errors import FAEError, require_known
    from fae_core.training.journal import read_metrics
    from fae_eval.studies.comparison import Group

    rows = read_metrics(Path(folder))
    if not rows:
        raise FAEError(f"{folder} has logged nothing")
    require_known(f"value of {folder}", [value], {key for row in rows for key in row})
    found = [row for row in rows if math.isfinite(row.get(value, math.inf))]
    if len(found) < 2:
        raise FAEError(f"{folder} has {len(found)} finite values of {value}, and a curve needs two")
    kept = [found[round(i * (len(found) - 1) / (min(len(found), 100) - 1))] for i in range(min(len(found), 100))]
    last = max(row["step"] for row in rows)
    if last <= 0:
        raise FAEError(f"{folder} has logged no step")
    return Group(name, tuple(round(100 * row["step"] / last, 2) for row in kept), (tuple(row[value] for row in kept),))
