"""Frechet distance against model evaluations: every combination of some sampling options, all from the same noise.

It answers which sampler, how many steps and how much guidance a generator wants: the cheapest combination whose
distance is within a margin of the smallest is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from fae_core.errors import InvalidFile
from fae_core.models.load import generator_class
from fae_core.models.sample_options import check_options
from fae_eval.results import FLOOR, Result, is_number, provenance
from fae_eval.studies.at_options import as_read_again, open_at_options, require_same_study
from fae_eval.studies.comparison import Group
from fae_eval.studies.generation import relate_to_floor
from fae_eval.studies.grid_plan import SamplingGrid
from fae_eval.tokenizers import name_of

KIND = "sampling-grid"
CHOSEN = "chosen"  # the first cell of the cheapest row that is good enough
EVALUATIONS = "evaluations"
_STEPS = "steps"  # the option along which a curve of the chart runs


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
    counted, not derived from the settings; 0 for a generator that is not called as a whole.

    Args:
        generator: run, model or checkpoint folder, or hub id, or the object.
        decoder: folder or hub id of a tokenizer that decodes, or the tokenizer.
        reference: real images, as in `evaluate`.
        grid: the combinations.
        labels: classes of the samples, as in `fae sample`.
        prompts: file of prompts, for a generator of text.
        seed: of noise and random labels.
        floor: more real images, disjoint from the reference, for a row of real against real.
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
        own = {"options": grid.options, "varied": list(grid.vary), "count": grid.count}
        own |= {} if floor is None else {"floor": name_of(floor)}
        command = partial(study.command, grid.count)
        state = _State(grid, {**study.identity, **as_read_again(own)}, command, title)
        if earlier is not None:
            state.resume(earlier)
        if floor is not None and state.floor is None:
            state.add_floor(study.measure_real(floor))
        for point in grid.points:
            if state.has(point):
                continue
            with _counted(study.model) as rows:
                measured = study.measure(grid.count, {**grid.options, **point})
            passes = sum(study.group.gather(rows[0])) / grid.count
            state.add(point, passes, measured)
            if keep is not None and study.group.is_main:
                keep(state.record())
        return state.record()


def chart_groups(result: Result) -> list[Group]:
    """The curves of a grid: distance over evaluations, one per combination of the options other than `steps`."""
    at = result.columns.index(EVALUATIONS)
    names = [str(name) for name in result.columns[1:at]]
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in result.rows:
        if row[0] == FLOOR:
            continue
        shown = [f"{_named(name)}{value}" for name, value in zip(names, row[1:at], strict=True) if name != _STEPS]
        curves.setdefault(", ".join(shown) or "samples", []).append((row[at], row[-1]))
    return [
        Group(name, tuple(x for x, _ in sorted(points)), (tuple(y for _, y in sorted(points)),))
        for name, points in curves.items()
    ]


class _State:
    """What has been measured. All processes have the same."""

    def __init__(
        self, grid: SamplingGrid, identity: dict[str, Any], command: Callable[[dict[str, Any]], str], title: str | None
    ) -> None:
        self.grid, self.identity, self.command = grid, identity, command
        self.title = title or "Distance against model evaluations"
        self.found: dict[tuple[str, ...], tuple[float, float]] = {}  # (evaluations, distance) by the values' texts
        self.floor: tuple[int, float] | None = None  # (images, distance)
        self.label = ""
        self.facts: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.seconds = 0.0

    def resume(self, earlier: Result) -> None:
        """Take over what an earlier grid measured. Raises FAEError where it was of something else."""
        columns = ["", *self.grid.vary, EVALUATIONS, "images"]
        require_same_study(earlier, KIND, self.identity, columns)
        at = columns.index(EVALUATIONS)
        for row in earlier.rows:
            real = row[0] == FLOOR
            if not all(is_number(cell) for cell in (row[at + 1], row[-1], *(() if real else (row[at],)))):
                raise InvalidFile("the record to resume has a row without numbers; use a new --out")
            if real:
                self.floor = (int(row[at + 1]), float(row[-1]))
            else:
                self.found[tuple(str(cell) for cell in row[1:at])] = (float(row[at]), float(row[-1]))
        self.label = str(earlier.columns[-1])
        self.facts = {key: value for key, value in earlier.provenance.items() if key != "search"}
        seconds: Any = earlier.provenance.get("seconds")
        self.seconds = float(seconds) if is_number(seconds) else 0.0
        self.warnings = [warning for warning in earlier.warnings if not warning.startswith(_UNFINISHED)]
        self.notes = [note for note in earlier.notes if not note.startswith(_OWN_NOTES)]

    def has(self, point: dict[str, Any]) -> bool:
        """Whether a combination has been measured."""
        return _key(point) in self.found

    def add_floor(self, measured: Result) -> None:
        """Take up the distance of real images."""
        count, distance = measured.rows[0][1], measured.rows[0][-1]
        self.floor = (int(count), float(distance))

    def add(self, point: dict[str, Any], evaluations: float, measured: Result) -> None:
        """Take up what was measured."""
        self.label = str(measured.columns[-1])
        self.found[_key(point)] = (evaluations, float(measured.rows[0][-1]))
        self.seconds += float(measured.provenance.get("seconds", 0.0))
        self.facts, self.warnings, self.notes = measured.provenance, measured.warnings, measured.notes

    def record(self) -> Result:
        """The record so far; rows of an earlier, larger grid are left out."""
        measured = [point for point in self.grid.points if self.has(point)]
        smallest = min(self.found[_key(point)][1] for point in measured)
        good = [p for p in measured if self.found[_key(p)][1] <= smallest * (1 + self.grid.within)]
        chosen = min(good, key=lambda point: self.found[_key(point)])
        missing = len(self.grid.points) - len(measured)
        rows = []
        for point in measured:
            evaluations, distance = self.found[_key(point)]
            name = CHOSEN if point == chosen and not missing else " ".join(f"{_named(k)}{v}" for k, v in point.items())
            rows.append([name, *point.values(), evaluations, self.grid.count, distance])
        columns = ["", *self.grid.vary, EVALUATIONS, "images", self.label]
        if self.floor is not None:
            rows.append([FLOOR, *(None for _ in self.grid.vary), None, *self.floor])
            relate_to_floor(columns, rows, self.label)
        warnings = list(self.warnings)
        if missing:
            warnings.append(f"{_UNFINISHED}: {missing} of {len(self.grid.points)} are missing; use --resume")
        evaluations, distance = self.found[_key(chosen)]
        settings = ", ".join(f"{name} {value}" for name, value in chosen.items())
        notes = [
            *self.notes,
            f"{_CHOSEN_NOTE} within {self.grid.within:.3g} of the smallest distance, {smallest:.4g}: {settings}, with "
            f"{evaluations:g} evaluations a sample and {self.label} {distance:.4g}.",
            f"{_COMMAND_NOTE}{self.command({**self.grid.options, **chosen})}",
        ]
        table = {"columns": columns, "rows": rows}
        now = {key: value for key, value in provenance().items() if key in ("command", "date")}
        facts = {**self.facts, **now, "seed": self.identity["seed"], "seconds": round(self.seconds, 1)}
        facts["search"] = self.identity
        values = {EVALUATIONS: evaluations, self.label: distance}
        return Result(KIND, self.title, table, [], notes, warnings, values, facts)


_UNFINISHED = "The grid is not finished"
_CHOSEN_NOTE = "The fewest evaluations"
_COMMAND_NOTE = "To use it: "
_OWN_NOTES = (_CHOSEN_NOTE, _COMMAND_NOTE)


def _key(point: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(value) for value in point.values())


def _named(option: str) -> str:
    """How a value is introduced: a method needs no name, a number does."""
    return "" if option == "method" else f"{option} "


@contextmanager
def _counted(model: Any) -> Iterator[list[int]]:
    """A list whose item is the number of samples that have passed through the whole network."""
    rows = [0]

    def add(_: nn.Module, given: tuple[Any, ...]) -> None:
        rows[0] += len(given[0]) if given else 0

    hook = model.register_forward_pre_hook(add) if isinstance(model, nn.Module) else None
    try:
        yield rows
    finally:
        if hook is not None:
            hook.remove()
