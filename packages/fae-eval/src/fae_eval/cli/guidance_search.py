"""`fae eval guidance-search`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fae_core.cli.option_objects import spread
from fae_core.cli.options import SetSampling
from fae_core.config.limits import MOST_IMAGES
from fae_eval.cli.options import draw_beside
from fae_eval.cli.resumable import ResumableMeasurement

if TYPE_CHECKING:
    from fae_eval.results import Result


@spread
def guidance_search(
    options: ResumableMeasurement,
    low: Annotated[float, typer.Option("--low", min=0, max=1000, help="The smallest scale; 1 is off.")] = 1.0,
    high: Annotated[float, typer.Option("--high", min=0, max=1000, help="The largest scale.")] = 4.0,
    step: Annotated[float, typer.Option("--step", min=0.001, max=1000, help="Between scales.")] = 0.1,
    interval: Annotated[
        str | None,
        typer.Option(
            "--interval",
            help="LOW,HIGH times that are guided (t = 1 is noise), or 'all'. Default: 0,0.7, the paper's ablations; "
            "all for a flow.",
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("--count", min=1, max=MOST_IMAGES, help="Samples of each of the best scales.")
    ] = 50_000,
    first_count: Annotated[
        int, typer.Option("--first-count", min=1, max=MOST_IMAGES, help="Samples of every scale, in a first round.")
    ] = 5_000,
    finalists: Annotated[
        int, typer.Option("--finalists", min=1, max=1000, help="How many of the best then get --count samples.")
    ] = 3,
    sampling: Annotated[
        str | None,
        typer.Option(
            "--sampling",
            help="As in fae sample, such as paper-guided; scale and interval of its guidance are replaced.",
        ),
    ] = None,
    overrides: SetSampling = None,
) -> None:
    """The guidance scale with the smallest Frechet distance, on a grid: 1.0, 1.1, ... as in the paper's ablations.

    Every scale is measured from --first-count samples, the best few from --count, all from the same noise. The record
    is written after each scale; --resume measures what is missing, also in a wider range. With --out a chart, NAME.svg,
    is written beside the record. The last note is the fae sample command with the best scale.

    Example: fae eval guidance-search --generator runs/dit --decoder runs/tokenizer --sampling paper-guided
    --reference VIRTUAL_imagenet256_labeled.npz --extractor inception --out runs/results
    """
    from fae_core.cli.settings import parse_overrides
    from fae_core.config import parse_config
    from fae_eval.studies.guidance_plan import GuidancePlan

    path = options.record_path("guidance-search")
    plan = parse_config(
        GuidancePlan,
        {
            "low": low,
            "high": high,
            "step": step,
            "interval": _times(interval),
            "count": count,
            "first_count": first_count,
            "finalists": finalists,
            "options": ({} if sampling is None else {"sampling": sampling}) | parse_overrides(overrides),
        },
        "guidance search",
    )
    options.check(max(count, first_count), plan.options_at(plan.low, None))
    options.run(path, _measure, plan, _draw)


def _measure() -> Callable[..., Result]:
    from fae_eval.studies.guidance_search import search_guidance

    return search_guidance


def _times(interval: str | None) -> Any:
    """The interval of a plan from the text of --interval. Raises FAEError where it is not LOW,HIGH."""
    from fae_core.errors import FAEError

    if interval is None or interval == "all":
        return interval
    try:
        low, high = (float(part) for part in interval.split(","))
    except ValueError:
        raise FAEError(f"--interval takes LOW,HIGH, such as 0,0.7, or 'all', not {interval[:40]!r}") from None
    return low, high


def _draw(result: Result, path: Path) -> None:
    """Write the chart of a record beside it."""
    from fae_eval.studies.guidance_search import chart_groups

    groups = chart_groups(result)
    lowest = min(scale for group in groups for scale in group.steps)
    axes = {"y_label": str(result.columns[-1]), "x_label": "guidance scale", "first": lowest}
    draw_beside(result, path, groups, **axes)
