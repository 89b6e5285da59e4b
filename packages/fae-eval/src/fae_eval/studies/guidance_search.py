"""The best guidance scale of a generator: the distance of its samples at each scale of a grid, from the same noise.

The paper's ablations search the scale in steps of 0.1, with guidance on t in [0, 0.7] (section 6, appendix D). Every
scale is measured from few samples first. The best few are then measured from all, and so are the neighbours of the
best, until both have a larger distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fae_core.models.load import generator_class
from fae_core.models.sample_options import check_options
from fae_eval.results import Result
from fae_eval.studies.at_options import AtOptions, open_at_options
from fae_eval.studies.comparison import Group
from fae_eval.studies.guidance_plan import EVERY_TIME, GuidancePlan
from fae_eval.studies.resumable import COMMAND_NOTE, ResumableStudy, numbers

KIND = "guidance-search"
BEST = "best"  # the first cell of the best scale's row
_UNFINISHED = "The search is not finished"
_EDGE = "The best scale is the end of the range,"
_BEST_NOTE = "Best scale:"


def search_guidance(
    generator: Any,
    decoder: Any,
    reference: Any,
    plan: GuidancePlan,
    *,
    labels: str = "equal",
    prompts: str | Path | None = None,
    seed: int = 0,
    title: str | None = None,
    earlier: Result | None = None,
    keep: Callable[[Result], object] | None = None,
    **options: Any,
) -> Result:
    """One row per scale and number of samples; the row of the best scale is named "best".

    Sample i has the same noise and label at every scale.

    Args:
        generator: run, model or checkpoint folder, or hub id, or the object.
        decoder: folder or hub id of a tokenizer that decodes, or the tokenizer.
        reference: real images, as in `evaluate`.
        plan: scales, times and numbers of samples.
        labels: classes of the samples, as in `fae sample`.
        prompts: file of prompts, for a generator of text.
        seed: of noise and random labels.
        title: heading of the record.
        earlier: the record of a search that ended early; what it measured is not measured again. Its range and its
            numbers of samples may be others.
        keep: called with the record so far after each measured scale, on the first process.
        **options: as in `open_at_options` (extractor, size, limit, device, batch_size, cache, progress, ...).

    Raises:
        InvalidSettings: for options that the generator does not have.
        FAEError: where `earlier` is of other settings, models or images, and as `evaluate`.
    """
    known = generator_class(generator) if isinstance(generator, (str, Path)) else generator
    if known is not None:  # asked before anything is loaded
        check_options(known, plan.options_at(plan.low, plan.times(known)))
    how = {"labels": labels, "prompts": prompts, "seed": seed, **options}
    with open_at_options(generator, decoder, reference, **how) as study:
        times = plan.times(study.model)
        check_options(study.model, plan.options_at(plan.low, times))
        search = _Search(study, plan, times, title or "Guidance search")
        if earlier is not None:
            search.resume(earlier)
        return search.run(keep)


def chart_groups(result: Result) -> list[Group]:
    """The curves of a search, one per number of samples: distance over scale."""
    counts = sorted({row[2] for row in result.rows})
    groups = []
    for count in counts:
        pairs = sorted((row[1], row[3]) for row in result.rows if row[2] == count)
        groups.append(
            Group(f"{count:,} samples", tuple(scale for scale, _ in pairs), (tuple(value for _, value in pairs),))
        )
    return groups


class _Search(ResumableStudy[tuple[int, float]]):
    """What has been measured at (samples, scale), and what comes next."""

    kind = KIND
    own_notes = (_BEST_NOTE, COMMAND_NOTE)
    own_warnings = (_UNFINISHED, _EDGE)
    first_columns = ("", "scale", "images")

    def __init__(self, study: AtOptions, plan: GuidancePlan, times: tuple[float, float] | None, title: str) -> None:
        self.interval = None if times in (None, EVERY_TIME) else times
        interval = None if self.interval is None else list(self.interval)
        super().__init__(study, {"options": plan.options, "interval": interval}, title)
        self.plan, self.times = plan, times
        self.first = min(plan.first_count, plan.count)
        self.found: dict[tuple[int, float], float] = {}

    def named_options(self) -> dict[str, dict[str, Any]]:
        return {_named(scale): self.plan.options_at(scale, self.times) for scale in self.plan.scales}

    def take(self, row: list[Any]) -> None:
        scale, count, distance = numbers(*row[1:3], row[-1])
        self.found[int(count), scale] = distance

    def measure(self, point: tuple[int, float]) -> None:
        count, scale = point
        options = self.plan.options_at(scale, self.times)
        measured = self.study.measure(count, options)
        self.found[point] = self.add(_named(scale), options, measured)
        if point == self.best:
            self.tell(measured)

    def next(self) -> tuple[int, float] | None:
        plan = self.plan
        for scale in plan.scales:
            if (self.first, scale) not in self.found:
                return self.first, scale
        if self.first == plan.count:
            return None
        finalists = sorted(plan.scales, key=lambda scale: (self.found[self.first, scale], scale))[: plan.finalists]
        best = self._best_of(plan.count)
        around = [] if best is None else self._neighbours(best)
        return next(((plan.count, scale) for scale in [*finalists, *around] if self._lacks(scale)), None)

    def _lacks(self, scale: float) -> bool:
        return (self.plan.count, scale) not in self.found

    def _neighbours(self, scale: float) -> Sequence[float]:
        grid = self.plan.scales
        at = grid.index(scale)
        return grid[max(0, at - 1) : at + 2]

    def _best_of(self, count: int) -> float | None:
        """The best scale of the grid among those measured from so many samples."""
        measured = [scale for scale in self.plan.scales if (count, scale) in self.found]
        return min(measured, key=lambda scale: (self.found[count, scale], scale), default=None)

    @property
    def best(self) -> tuple[int, float] | None:
        """(samples, scale) of the best so far: from all samples, where a scale was measured from all."""
        for count in (self.plan.count, self.first):
            if (scale := self._best_of(count)) is not None:
                return count, scale
        return None

    def record(self) -> Result:
        best, waiting = self.best, self.next()
        assert best is not None  # a record is made after the first scale
        count, scale = best
        rows = [
            [BEST if key == best and waiting is None else _named(key[1]), key[1], key[0], self.found[key]]
            for key in sorted(self.found)
        ]
        warnings = []
        if waiting is not None:
            warnings.append(f"{_UNFINISHED}: the next is {_named(waiting[1])}, {waiting[0]:,} samples; use --resume")
        elif scale in (self.plan.scales[0], self.plan.scales[-1]):
            warnings.append(f"{_EDGE} {scale:g}: a better one may lie outside; widen the range and use --resume")
        where = "at every time" if self.interval is None else f"on t in [{self.interval[0]:g}, {self.interval[1]:g}]"
        value = self.found[best]
        notes = [
            f"{_BEST_NOTE} {scale:g} {where}, {self.label} {value:.4g} from {count:,} samples.",
            f"{COMMAND_NOTE}{self.study.command(self.plan.count, self.plan.options_at(scale, self.times))}",
        ]
        table = {"columns": [*self.first_columns, self.label], "rows": rows}
        return self.made(table, notes, warnings, {"best scale": scale, self.label: value})


def _named(scale: float) -> str:
    return f"scale {scale:g}"
