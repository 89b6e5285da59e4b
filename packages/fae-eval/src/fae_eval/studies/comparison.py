"""Repeated experiments side by side: means over seeds, and differences in units of the noise between seeds.

A group is one variant (a latent space, an adapter, a setting), its records one per seed. From records of kind
"convergence" the value at each step is compared, from others the value in one row.
"""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fae_core.errors import FAEError, UnknownName
from fae_eval.results import FLOOR, RELATIVE, Result, is_number, provenance

KIND = "comparison"
_RECONSTRUCTION = "reconstruction"
_DISTANCE = re.compile(r"r?(FID|FD-.*)")  # a Frechet distance
_HIGHER = re.compile(
    r"(precision|recall|density|coverage|IS|PSNR|SSIM|feature cosine|top-\d|((train|test) )?accuracy"
    r"|(CLIP|SigLIP) score|(image|text) to (image|text) R@\d+|correlation with the features' map"
    r"|share of the features' matches also found|share of variance in three components)\b.*"
)
_LOWER = re.compile(
    r"(r?FID|sFID|KID|(r|s)?FD|FDr|KD|LPIPS|L1|feature MSE|unexplained variance|seconds|evaluations)\b.*"
)
CLEAR = 5.0  # times the noise; a smaller difference needs more seeds before it is claimed


@dataclass(frozen=True)
class Group:
    """The runs of one variant.

    Attributes:
        name: of the variant.
        steps: at which all have values; () for single values.
        runs: the values of each seed, one per step, or a single one.
        floor: the distance of real images to others, the mean over the records; None where they do not have it.
        references: what the records compare with, in words, once for each content; empty where they do not say.
        counts: numbers of images behind the values; empty where the records do not say.
    """

    name: str
    steps: tuple[float, ...]
    runs: tuple[tuple[float, ...], ...]
    floor: float | None = None
    references: Mapping[str, str] = field(default_factory=dict[str, str])
    counts: frozenset[int] = frozenset()

    def means(self) -> list[float]:
        """Means over the runs, one per step."""
        return [statistics.fmean(values) for values in zip(*self.runs, strict=True)]

    @property
    def last(self) -> list[float]:
        """The final value of each run."""
        return [run[-1] for run in self.runs]

    @property
    def mean(self) -> float:
        """The mean final value."""
        return statistics.fmean(self.last)


def read_group(name: str, records: Sequence[Result], column: str | None = None, row: str | None = None) -> Group:
    """One group from its records.

    Args:
        name: of the group.
        records: one per seed.
        column: whose values; by default the Frechet distance or, where the first record has none, its last numeric
            column (of `fae reconstruct` the first).
        row: first cell of the row in records without steps; by default the only row beside the floor or, where a record
            has several, in every record the one that is named as the first record's first.

    Raises:
        FAEError: where records do not fit each other.
    """
    if not records:
        raise FAEError(f"{name} has no records")
    records = [_upright(record) for record in records]
    column = column or _default_column(records[0])
    row = row or _default_row(records)
    chosen = [_rows(record, column, row) for record in records]
    found = [(steps, _numbers(record, column, rows)) for record, (steps, rows) in zip(records, chosen, strict=True)]
    if len({steps[-1:] for steps, _ in found}) > 1:
        raise FAEError(f"the records of {name} end at different steps")
    # A run that was interrupted has a checkpoint more than the others.
    steps = tuple(step for step in found[0][0] if all(step in other for other, _ in found))
    if steps:
        found = [(steps, tuple(value for step, value in zip(*one, strict=True) if step in steps)) for one in found]
    floors = [_floor(record, column) for record in records]
    known = [floor for floor in floors if floor is not None]
    floor = statistics.fmean(known) if len(known) == len(floors) else None
    references = {key: shown for record in records for key, shown in _reference(record)}
    counts = {n for record, (_, rows) in zip(records, chosen, strict=True) for n in _counts(record, rows)}
    return Group(name, steps, tuple(values for _, values in found), floor, references, frozenset(counts))


def higher_is_better(column: str) -> bool:
    """Whether a larger number is the better one, by its name: an accuracy, a similarity, but not a distance or error.

    Args:
        column: of a record of this package.

    Raises:
        FAEError: where the name does not say it.
    """
    higher = _HIGHER.fullmatch(column) is not None
    if not higher and _LOWER.fullmatch(column) is None:
        raise FAEError(f"which way is better is not known of {column!r}; give --higher-is-better or --lower-is-better")
    return higher


def compare(
    groups: Sequence[Group], *, column: str, lower_is_better: bool | None = None, title: str = "Comparison"
) -> Result:
    """One row per group: mean and standard deviation over its runs, and the difference to the first group.

    The noise is the pooled standard deviation of a single run over all groups that have several; a difference smaller
    than five times the noise is marked. For curves, a note says at which step the first group is as good as the best of
    each other. Where every group has a floor, a column has the means in units of it, FDr. Warnings say where references
    or numbers of images differ.

    Args:
        groups: two or more; the first is what the others are compared with.
        column: what the values are called.
        lower_is_better: whether the smallest mean is the best; None: by the column's name, see `higher_is_better`.
        title: heading of the record.

    Raises:
        FAEError: where there are fewer than two groups, or the column's name does not say which way is better.
    """
    if len(groups) < 2:
        raise FAEError("a comparison needs at least two groups")
    if lower_is_better is None:
        lower_is_better = not higher_is_better(column)
    noise = pooled_deviation([group.last for group in groups])
    first = groups[0].mean
    rows = []
    for group in groups:
        mean = group.mean
        spread = statistics.stdev(group.last) if len(group.last) > 1 else None
        difference = mean - first if group is not groups[0] else None
        times = abs(difference) / noise if difference is not None and noise else None
        rows.append([group.name, len(group.runs), mean, spread, difference, times])
    columns = ["", "runs", column, "std over runs", f"difference to {groups[0].name}", "in units of the noise"]
    notes = []
    floors = [group.floor for group in groups if group.floor]
    if len(floors) == len(groups):
        columns.insert(2, RELATIVE)
        for row, floor in zip(rows, floors, strict=True):
            row.insert(2, row[2] / floor)
        notes.append(f"{RELATIVE}: the mean over that of real images, {shown_floor(groups)}.")
    if noise is not None:
        notes.append(f"Noise of a single run (pooled standard deviation over seeds): {noise:.4g}.")
        unclear = [row[0] for row in rows if row[-1] is not None and row[-1] < CLEAR]
        if unclear:
            notes.append(f"Less than {CLEAR:g} times the noise apart from {groups[0].name}: {', '.join(unclear)}.")
    best = min(groups, key=lambda group: (1 if lower_is_better else -1) * group.mean)
    notes.append(f"{'Lower' if lower_is_better else 'Higher'} is better; the best mean is that of {best.name}.")
    notes += _race(groups, lower_is_better)
    values = {f"{group.name}: {column}": group.mean for group in groups}
    table, warnings = {"columns": columns, "rows": rows}, _differences(groups)
    return Result(KIND, title, table, [], notes, warnings, values, provenance())


def shown_floor(groups: Sequence[Group]) -> str:
    """The distance of real images as a text, the range where groups differ; "" where one does not have it.

    Args:
        groups: at least one.
    """
    known = [group.floor for group in groups if group.floor is not None]
    if len(known) < len(groups):
        return ""
    shown = list(dict.fromkeys(f"{floor:.4g}" for floor in (min(known), max(known))))
    return " to ".join(shown)


def pooled_deviation(runs: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation of one run around its group's mean, over all groups; None where no group has two runs.

    Args:
        runs: the values of each group.
    """
    several = [values for values in runs if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    if not freedom:
        return None
    return math.sqrt(sum(statistics.variance(values) * (len(values) - 1) for values in several) / freedom)


def _race(groups: Sequence[Group], lower_is_better: bool) -> list[str]:
    """For each other group, when the first group's mean was as good as the best of that one."""
    leader, sign = groups[0], 1 if lower_is_better else -1
    notes = []
    for other in groups[1:]:
        if len(leader.steps) < 2 or len(other.steps) < 2:
            continue
        goal = min(sign * value for value in other.means())
        when = [step for step, value in zip(leader.steps, leader.means(), strict=True) if sign * value <= goal]
        reached = f"after {when[0]} steps" if when else "at none of its measured steps"
        notes.append(f"{leader.name} is as good as the best of {other.name} ({sign * goal:.4g}) {reached}.")
    return notes


def _differences(groups: Sequence[Group]) -> list[str]:
    """Warnings where values are compared that do not belong together (docs/distances.md)."""
    references = {key: shown for group in groups for key, shown in group.references.items()}
    counts = sorted({count for group in groups for count in group.counts})
    warnings = []
    if len(references) > 1:
        warnings.append(f"the records compare with different references: {', '.join(references.values())}")
    if len(counts) > 1:
        shown = ", ".join(map(str, counts))
        warnings.append(f"the values are of different numbers of images ({shown}): fewer images are further away")
    return warnings


def _reference(record: Result) -> list[tuple[str, str]]:
    """What tells the reference of a record, and it in words; none where the record does not say it."""
    facts = record.provenance.get("reference")
    if not isinstance(facts, dict):
        return []
    source, content = facts.get("source"), facts.get("file_sha256") or facts.get("hash")
    return [(str(content or source), f"{source} ({content})")]


def _counts(record: Result, rows: Sequence[Sequence[Any]]) -> set[int]:
    """How many images are behind rows of a record."""
    at = record.columns.index("images") if "images" in record.columns else None
    return {int(row[at]) for row in rows if at is not None and is_number(row[at])}


def _rows(record: Result, column: str, row: str | None) -> tuple[tuple[int, ...], list[list[Any]]]:
    """The rows of a record that are compared, and their steps, () without any."""
    columns, rows = [str(name) for name in record.columns], record.rows
    if column not in columns:
        raise UnknownName(f"column of {record.title!r}", column, columns)
    for name in {column, "step"}:
        if columns.count(name) > 1:
            raise FAEError(f"{record.title!r} has several columns {name!r}")
    if "step" in columns:
        timed = _numbers(record, "step", rows)
        order = sorted(range(len(rows)), key=lambda number: timed[number])
        rows, steps = [rows[number] for number in order], tuple(int(timed[number]) for number in order)
        if len(set(steps)) != len(steps) or min(steps, default=0) < 0:
            raise FAEError(f"{record.title!r} has several rows of one step, or steps below 0")
    else:
        named = _measured(record) if row is None else [cells for cells in rows if cells and str(cells[0]) == row]
        if not named:
            raise UnknownName(f"row of {record.title!r}", str(row), [str(cells[0]) for cells in rows if cells])
        if len(named) > 1:
            raise FAEError(f"{record.title!r} has several rows: {', '.join(str(cells[0]) for cells in named[:5])}")
        rows, steps = named, ()
    if not rows:
        raise FAEError(f"{record.title!r} has no rows")
    return steps, rows


def _floor(record: Result, column: str) -> float | None:
    """The distance of real images that a record's FDr is in units of; None for another column, or without FDr."""
    columns = [str(name) for name in record.columns]
    at = columns.index(column) - 1 if column in columns else -1
    if at < 0 or columns[at].partition("-")[0] != RELATIVE:
        return None
    for row in record.rows:
        relative, distance = row[at], row[at + 1]
        if is_number(relative) and is_number(distance) and relative > 0:
            return float(distance / relative)
    return None


def _numbers(record: Result, column: str, rows: Sequence[Sequence[Any]]) -> tuple[float, ...]:
    """The cells of a column. Raises FAEError where one is not a finite number."""
    at = [str(name) for name in record.columns].index(column)
    cells = [row[at] for row in rows]
    if not all(is_number(cell) for cell in cells):
        raise FAEError(f"{record.title!r} has no number in every row of {column!r}")
    return tuple(float(cell) for cell in cells)


def _default_row(records: Sequence[Result]) -> str | None:
    """None where each record has one row beside the floor; else the name of the first record's first."""
    if all(len(_measured(record)) < 2 for record in records):
        return None
    first = _measured(records[0])
    return str(first[0][0]) if first else None


def _measured(record: Result) -> list[list[Any]]:
    """The rows of a record's table without that of real against real images."""
    return [cells for cells in record.rows if cells and cells[0] != FLOOR]


def _default_column(record: Result) -> str:
    numeric = [
        str(name)
        for at, name in enumerate(record.columns)
        if at and record.rows and isinstance(record.rows[0][at], float)
    ]
    if not numeric:
        raise FAEError(f"{record.title!r} has no column of numbers")
    distances = [name for name in numeric if _DISTANCE.fullmatch(name)]
    return distances[-1] if distances else numeric[0 if record.kind == _RECONSTRUCTION else -1]


def _upright(record: Result) -> Result:
    """The record of `fae reconstruct`, whose rows are what was measured, with columns of these; others as they are."""
    if record.kind != _RECONSTRUCTION or len(record.columns) != 2 or not record.rows:
        return record
    names, cells = zip(*record.rows, strict=True)
    table = {"columns": [record.columns[0], *names], "rows": [[record.columns[1], *cells]]}
    return dataclasses.replace(record, table=table)


def parse_groups(given: Mapping[str, Sequence[Result]], column: str | None, row: str | None) -> tuple[list[Group], str]:
    """Groups in order, and the column that they were read from.

    Args:
        given: name of a group -> its records.
        column: as in `read_group`; the default is taken from the first record of all.
        row: as in `read_group`.

    Raises:
        FAEError: where records do not fit each other.
    """
    chosen = column or _default_column(_upright(next(iter(given.values()))[0]))
    return [read_group(name, records, chosen, row) for name, records in given.items()], chosen
