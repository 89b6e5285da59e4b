"""`fae eval sampling-grid`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fae_core.cli.option_objects import spread
from fae_core.cli.options import SetSampling
from fae_core.config.limits import MOST_IMAGES
from fae_eval.cli.measure import Floor
from fae_eval.cli.options import draw_beside
from fae_eval.cli.resumable import ResumableMeasurement

if TYPE_CHECKING:
    from fae_eval.results import Result


@spread
def sampling_grid(
    options: ResumableMeasurement,
    vary: Annotated[
        list[str],
        typer.Option("--vary", help="OPTION=VALUE,VALUE,... of fae sample, such as steps=8,12,25. Repeatable."),
    ],
    count: Annotated[int, typer.Option("--count", min=1, max=MOST_IMAGES, help="Samples of each combination.")] = 5_000,
    within: Annotated[
        float,
        typer.Option("--within", min=0, max=1, help="How far above the smallest distance is as good, 0.02 = 2 %."),
    ] = 0.02,
    overrides: SetSampling = None,
    floor: Floor = None,
) -> None:
    """Frechet distance against model evaluations, for every combination of some sampling options.

    All combinations start from the same noise. The cheapest whose distance is near the smallest is named, with its
    fae sample command. The record is written after each; --resume measures what is missing, also in a larger grid.
    With --out a chart, NAME.svg, is written beside the record.

    Example: fae eval sampling-grid --generator cifar10 --decoder cifar10 --reference test.parquet --count 500
    --vary method=euler,dpm++2m --vary steps=8,12,25,50 --vary guidance=1,1.5,2 --out runs/results
    """
    from fae_core.cli.settings import parse_overrides
    from fae_core.config import parse_config
    from fae_eval.studies.grid_plan import SamplingGrid

    path = options.record_path("sampling-grid")
    settings = {"vary": _values(vary), "count": count, "within": within, "options": parse_overrides(overrides)}
    grid = parse_config(SamplingGrid, settings, "sampling grid")
    options.check(count, *({**grid.options, **point} for point in grid.points), floor=floor)
    options.run(path, _measure, grid, _draw, floor=floor)


def _measure() -> Callable[..., Result]:
    from fae_eval.studies.sampling_grid import measure_grid

    return measure_grid


def _values(given: list[str]) -> dict[str, list[Any]]:
    """The values of each option. Raises FAEError for another form than OPTION=VALUE,VALUE."""
    from fae_core.cli.settings import parse_overrides
    from fae_core.errors import FAEError
    from fae_eval.cli.options import names_and_paths

    found = {}
    for name, values in names_and_paths(given, "varied option", "OPTION=VALUE,VALUE").items():
        if "." in name:
            raise FAEError(f"--vary takes an option of fae sample, not {name!r}; fix parts of one with --set")
        found[name] = [parse_overrides([f"{name}={value.strip()}"])[name] for value in values.split(",")]
    return found


def _draw(result: Result, path: Path) -> None:
    """Write the chart of a record beside it."""
    from fae_eval.studies.sampling_grid import chart_groups

    axes = {"y_label": str(result.columns[-1]), "x_label": "model evaluations a sample"}
    draw_beside(result, path, chart_groups(result), **axes)
