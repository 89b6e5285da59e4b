"""Frechet distance against model evaluations: every combination of some sampling options, all from the same noise.

It answers which sampler, how many steps and how much guidance a generator wants: the cheapest combination whose
distance is within a margin of the smallest is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from fae_core.errors import FAEError
from fae_core.models.load import generator_class
from fae_core.models.sample_options import check_options
from fae_eval import warnings as protocol
from fae_eval.results import FLOOR, Result, is_number
from fae_eval.studies.at_options import AtOptions, open_at_options
from fae_eval.studies.comparison import Group
from fae_eval.studies.generation import relate_to_floor
from fae_eval.studies.grid_plan import SamplingGrid
from fae_eval.studies.resumable import COMMAND_NOTE, ResumableStudy, numbers
from fae_eval.tokenizers import name_of

KIND = "sampling-grid"
CHOSEN = "chosen"  # the first cell of the cheapest row that is good enough
EVALUATIONS = "evaluations"
UNKNOWN = "unknown"  # in place of evaluations that the generator does not count
_STEPS = "steps"  # the option along which a curve of the chart runs
_FLOOR = "floor"  # in the record: a hash of the real images that were measured
_UNFINISHED = "The grid is not finished"
_CHOSEN_NOTE, _NEAREST_NOTE = "The fewest evaluations", "The smallest distance"


def measure_grid(
    generator: Any,
    decoder: Any,
    reference: Any,
    grid: SamplingGrid,
    *,
    labels: str = "equal",
    prompts: str | Path | None = None,
    seed: int = 0,
    floor: Any = None,
    title: str | None = None,
    earlier: Result | None = None,
    keep: Callable[[Result], object] | None = None,
    **options: Any,
) -> Result:
    """One row per combination: its options, model evaluations per sample, and the distance.

    A model evaluation is one pass of one sample through the network; guidance by a null condition takes two. It is
    counted, not derived from the settings: by the generator itself, where it has an attribute `evaluations`, else by
    calls of the whole module. Where neither tells, evaluations are "unknown", and the row with the smallest distance
    is the chosen one.

    Args:
        generator: run, model or checkpoint folder, or hub id, or the object.
        decoder: folder or hub id of a tokenizer that decodes, or the tokenizer.
        reference: real images, as in `evaluate`.
        grid: the combinations.
        labels: classes of the samples, as in `fae sample`.
        prompts: file of prompts, for a generator of text.
        seed: of noise and random labels.
        floor: more real images, disjoint from the reference, for a row of real against real; a resumed record keeps
            the row that it has.
        title: heading of the record.
        earlier: the record of a grid that ended early, or of a smaller one; its combinations are not measured again.
        keep: called with the record so far after each combination, on the first process.
        **options: as in `open_at_options` (extractor, size, limit, device, batch_size, cache, progress, ...).

    Raises:
        InvalidSettings: for options that the generator does not have.
        FAEError: where `earlier` is of other settings, models or images, and as `evaluate`.
    """
    known = generator_class(generator) if isinstance(generator, (str, Path)) else generator
    if known is not None:  # asked before anything is loaded
        for point in grid.points:
            check_options(known, {**grid.options, **point})
    how = {"labels": labels, "prompts": prompts, "seed": seed, **options}
    with open_at_options(generator, decoder, reference, **how) as study:
        for point in grid.points:
            check_options(study.model, {**grid.options, **point})
        measures = _Grid(study, grid, title or "Distance against model evaluations")
        if earlier is not None:
            measures.resume(earlier)
        if floor is not None:
            measures.measure_floor(floor)
        return measures.run(keep)


def chart_groups(result: Result) -> list[Group]:
    """The curves of a grid: distance over evaluations, one per combination of the options other than `steps`.

    Where evaluations are not known of all, each combination stands alone.
    """
    at = result.columns.index(EVALUATIONS)
    known = all(row[0] == FLOOR or is_number(row[at]) for row in result.rows)
    names = [str(name) for name in result.columns[1:at]]
    curves: dict[str, list[tuple[float, float]]] = {}
    floor: float | None = None
    for row in result.rows:
        if row[0] == FLOOR:
            floor = row[-1]
            continue
        values = zip(names, row[1:at], strict=True)
        shown = [f"{_named(name)}{value}" for name, value in values if name != _STEPS or not known]
        curves.setdefault(", ".join(shown) or "samples", []).append((row[at], row[-1]))
    return [
        Group(name, tuple(x for x, _ in points if known), (tuple(y for _, y in points),), floor)
        for name, points in ((name, sorted(points)) for name, points in curves.items())
    ]


class _Grid(ResumableStudy[dict[str, Any]]):
    """What has been measured at the combinations. Those of an earlier, larger grid are not shown."""

    kind = KIND
    own_notes = (_CHOSEN_NOTE, _NEAREST_NOTE, COMMAND_NOTE)
    own_warnings = (_UNFINISHED, protocol.FLOOR_UNITS, FLOOR)

    def __init__(self, study: AtOptions, grid: SamplingGrid, title: str) -> None:
        super().__init__(study, {"options": grid.options, "varied": list(grid.vary), "count": grid.count}, title)
        self.grid, self.first_columns = grid, ("", *grid.vary, EVALUATIONS, "images")
        # (evaluations, None where they are not known; distance) by the values' texts
        self.found: dict[tuple[str, ...], tuple[float | None, float]] = {}
        self.floor: tuple[int, float] | None = None  # (images, distance)
        self.floor_warnings: list[str] = []  # of its measurement

    def named_options(self) -> dict[str, dict[str, Any]]:
        return {_name(point): {**self.grid.options, **point} for point in self.grid.points}

    def resume(self, earlier: Result) -> None:
        super().resume(earlier)
        if self.floor is not None:
            self.identity[_FLOOR] = self._searched(earlier).get(_FLOOR)
            self._tell_of_floor(earlier)

    def take(self, row: list[Any]) -> None:
        at = self.first_columns.index(EVALUATIONS)
        if row[0] == FLOOR:
            count, distance = numbers(row[at + 1], row[-1])
            self.floor = (int(count), distance)
        else:
            _, distance = numbers(row[at + 1], row[-1])
            (evaluations,) = (None,) if row[at] == UNKNOWN else numbers(row[at])
            # Earlier versions wrote 0 where they counted nothing.
            self.found[tuple(str(cell) for cell in row[1:at])] = (evaluations or None, distance)

    def measure_floor(self, images: Any) -> None:
        """Measure real images, unless the record that is resumed has them. Raises FAEError where it has others."""
        content = self.study.content(images)
        if self.floor is None:
            measured = self.study.measure_real(images, self.grid.count)
            count, distance = numbers(*(measured.rows[0][at] for at in (1, -1)))
            self.floor, self.identity[_FLOOR] = (int(count), distance), content
            self._tell_of_floor(measured)
        elif self.identity[_FLOOR] not in (content, name_of(images)):  # earlier versions knew them by their name
            raise FAEError("the sampling grid to resume was started with another floor; use a new --out")

    def _tell_of_floor(self, measured: Result) -> None:
        self.floor_warnings = [warning for warning in measured.warnings if warning.startswith(FLOOR)]

    def next(self) -> dict[str, Any] | None:
        return next((point for point in self.grid.points if _key(point) not in self.found), None)

    def measure(self, point: dict[str, Any]) -> None:
        options = {**self.grid.options, **point}
        with _counted(self.study.model) as evaluations:
            measured = self.study.measure(self.grid.count, options)
        passes = sum(self.study.group.gather(evaluations())) / self.grid.count
        self.found[_key(point)] = (passes or None, self.add(_name(point), options, measured))
        self.tell(measured)

    def record(self) -> Result:
        measured = [point for point in self.grid.points if _key(point) in self.found]
        smallest = min(self.found[_key(point)][1] for point in measured)
        good = [p for p in measured if self.found[_key(p)][1] <= smallest * (1 + self.grid.within)]
        priced = all(self.found[_key(point)][0] is not None for point in good)
        chosen = min(good, key=lambda point: self.found[_key(point)][0 if priced else 1 :])
        missing = len(self.grid.points) - len(measured)
        rows = []
        for point in measured:
            evaluations, distance = self.found[_key(point)]
            name = CHOSEN if point == chosen and not missing else _name(point)
            shown = UNKNOWN if evaluations is None else evaluations
            rows.append([name, *point.values(), shown, self.grid.count, distance])
        columns, warnings = [*self.first_columns, self.label], list(self.floor_warnings)
        if self.floor is not None:
            rows.append([FLOOR, *(None for _ in self.grid.vary), None, *self.floor])
            if relate_to_floor(columns, rows, self.label):
                warnings += protocol.floor_warnings(self.floor[0], {"samples": self.grid.count})
        if missing:
            warnings.append(f"{_UNFINISHED}: {missing} of {len(self.grid.points)} are missing; use --resume")
        evaluations, distance = self.found[_key(chosen)]
        settings = ", ".join(f"{name} {value}" for name, value in chosen.items())
        if priced:
            note = (
                f"{_CHOSEN_NOTE} within {self.grid.within:.3g} of the smallest distance, {smallest:.4g}: {settings}, "
                f"with {evaluations:g} evaluations a sample and {self.label} {distance:.4g}."
            )
        else:
            note = (
                f"{_NEAREST_NOTE}, {self.label} {distance:.4g}: {settings}. How many evaluations a sample takes is not "
                "known: the generator does not count them, and its network is not called as a whole."
            )
        notes = [note, f"{COMMAND_NOTE}{self.study.command(self.grid.count, {**self.grid.options, **chosen})}"]
        table, values = {"columns": columns, "rows": rows}, {self.label: distance}
        if evaluations is not None:
            values[EVALUATIONS] = evaluations
        return self.made(table, notes, warnings, values)


def _key(point: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(value) for value in point.values())


def _name(point: dict[str, Any]) -> str:
    """What a row is called, and its settings in the record."""
    return " ".join(f"{_named(option)}{value}" for option, value in point.items())


def _named(option: str) -> str:
    """How a value is introduced: a method needs no name, a number does."""
    return "" if option == "method" else f"{option} "


@contextmanager
def _counted(model: Any) -> Iterator[Callable[[], float]]:
    """A function that says how many samples have passed through the network since; 0 where nothing tells.

    Calls of the whole module are counted only where the generator does not count: what is replayed as a CUDA graph, or
    goes through parts of the module, does not call it.
    """
    before: Any = getattr(model, EVALUATIONS, None)
    if is_number(before):
        yield lambda: getattr(model, EVALUATIONS) - before
        return
    rows = [0]

    def add(_: nn.Module, given: tuple[Any, ...]) -> None:
        rows[0] += len(given[0]) if given else 0

    hook = model.register_forward_pre_hook(add) if isinstance(model, nn.Module) else None
    try:
        yield lambda: rows[0]
    finally:
        if hook is not None:
            hook.remove()
