"""Finding what a report shows: runs, result records, folders of samples, the steps of a recipe."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fae_core.errors import DataError, InvalidFile
from fae_core.files import read_json, read_yaml
from fae_core.folders import (
    ENCODER,
    FEATURE_DECODER,
    GRID,
    HELD_OUT,
    IMAGES,
    PIXEL_DECODER,
    RECIPE_STEPS,
    RUN_CHECKPOINTS,
    RUN_CONFIG,
    RUN_EXPORTS,
    RUN_METRICS,
    RUN_MODEL,
    RUN_SAMPLES,
    SAMPLES_RECORD,
    TRAIN,
    checkpoint_step,
)
from fae_eval.results import Result, is_number

_DEPTH = 3  # folders below a given one that are searched
# The order of records; all others follow.
_KINDS = (
    "reconstruction",
    "samples",
    "generation",
    "comparison",
    "convergence",
    "guidance-search",
    "sampling-grid",
    "text",
    "probe",
)
_MOST_CONFIG = 2**20  # bytes of a config.yaml that is shown
_SKIPPED = {RUN_CHECKPOINTS, RUN_MODEL, RUN_EXPORTS, IMAGES, TRAIN, HELD_OUT, ENCODER, FEATURE_DECODER, PIXEL_DECODER}


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        name: what the report calls it.
        folder: of the run.
        rows: its metrics, one mapping per logged step.
        config: the text of its settings.
        preview: its last preview, relative to the folder; None where there is none.
        planned: steps that it was started for; None where they are not known.
    """

    name: str
    folder: Path
    rows: list[dict[str, float]]
    config: str
    preview: Path | None
    planned: int | None = None

    @property
    def shortfall(self) -> str:
        """How far a run came that ended before its last step, in words; "" for a whole one."""
        checkpoints = (self.folder / RUN_CHECKPOINTS).glob("*")
        done = max([self.steps or 0, *(checkpoint_step(path.name) or 0 for path in checkpoints)])
        return "" if self.planned is None or done >= self.planned else f"not finished: {done} of {self.planned} steps"

    @property
    def seconds(self) -> float | None:
        """Seconds of training that were logged last."""
        return next((row["seconds"] for row in reversed(self.rows) if "seconds" in row), None)

    @property
    def steps(self) -> int | None:
        """The step that was logged last."""
        return next((int(row["step"]) for row in reversed(self.rows) if "step" in row), None)


@dataclass(frozen=True)
class SampleGrid:
    """A folder of samples that `fae sample` wrote, and its record."""

    name: str
    folder: Path
    record: dict[str, Any]


@dataclass
class Collection:
    """Everything found below the given paths.

    Attributes:
        runs: training runs.
        samples: folders of samples.
        results: records, each with its file, whose folder its figures are relative to.
        steps: of the recipe that made the runs.
        title: of the recipe.
        problems: what could not be read, one sentence each.
    """

    runs: list[Run] = field(default_factory=list)
    samples: list[SampleGrid] = field(default_factory=list)
    results: list[tuple[Result, Path]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    title: str = ""
    problems: list[str] = field(default_factory=list)


def collect(paths: Sequence[str | Path]) -> Collection:
    """What is found in runs, folders of runs and result files. What cannot be read is named in `problems`.

    Runs that have one name, samples likewise and records of one title also get their places, which tell them apart.

    Args:
        paths: folders and .json files.

    Raises:
        DataError: where a path does not exist, or nothing was found at all.
    """
    found = Collection()
    for path in map(Path, paths):
        if path.is_file():
            _add_result(found, path)
        elif path.is_dir():
            _search(found, path, path, 0)
        else:
            raise DataError(f"{path} does not exist")
    if not (found.runs or found.samples or found.results):
        listed = ", ".join(map(str, paths))
        hint = f" ({found.problems[0]})" if found.problems else ""
        raise DataError(f"there is no run, no samples and no result record in {listed}{hint}")
    order = [str(step["name"]) for step in found.steps if "name" in step]
    rank = {name: number for number, name in enumerate(order)}
    found.runs.sort(key=lambda run: (rank.get(run.name, len(rank)), _start(run), run.name))
    found.results.sort(key=lambda pair: _KINDS.index(pair[0].kind) if pair[0].kind in _KINDS else len(_KINDS))
    found.samples.sort(key=lambda grid: grid.name)
    names = _told_apart([(run.name, run.folder) for run in found.runs])
    found.runs = [replace(run, name=name) for run, name in zip(found.runs, names, strict=True)]
    names = _told_apart([(grid.name, grid.folder) for grid in found.samples])
    found.samples = [replace(grid, name=name) for grid, name in zip(found.samples, names, strict=True)]
    titles = _told_apart([(result.title, path) for result, path in found.results])
    found.results = [(replace(r, title=title), path) for (r, path), title in zip(found.results, titles, strict=True)]
    return found


def _told_apart(named: Sequence[tuple[str, Path]]) -> list[str]:
    """Names of files or folders; one that several have is followed by the place, below the folder that they share."""
    alike: dict[str, list[Path]] = {}
    for name, path in named:
        alike.setdefault(name, []).append(path.absolute())
    shared = {name: os.path.commonpath([path.parent for path in paths]) for name, paths in alike.items()}
    return [
        f"{name} ({path.absolute().relative_to(shared[name])})" if len(alike[name]) > 1 else name
        for name, path in named
    ]


def _search(found: Collection, folder: Path, root: Path, depth: int) -> None:
    name = str(folder.relative_to(root)) if folder != root else folder.resolve().name
    if (folder / RUN_METRICS).is_file() or (folder / RUN_CONFIG).is_file():
        found.runs.append(_read_run(folder, name, found.problems))
    elif (folder / SAMPLES_RECORD).is_file():
        _add_samples(found, folder, name)
    if (folder / RECIPE_STEPS).is_file():
        _add_steps(found, folder / RECIPE_STEPS)
    for path in sorted(folder.glob("[!.]*.json")):
        if path.name not in (SAMPLES_RECORD, RECIPE_STEPS):
            _add_result(found, path, quietly=True)
    if depth < _DEPTH:
        try:
            with os.scandir(folder) as entries:
                children = sorted(entry.name for entry in entries if entry.is_dir())
        except OSError as error:
            found.problems.append(f"{folder} cannot be read: {error.strerror}")
            return
        for child in children:
            if child not in _SKIPPED and not child.startswith("."):
                _search(found, folder / child, root, depth + 1)


def _read_run(folder: Path, name: str, problems: list[str]) -> Run:
    rows, damaged = [], 0
    journal, config = folder / RUN_METRICS, folder / RUN_CONFIG
    for line in _text(journal, problems).splitlines():
        try:
            row = json.loads(line)
            rows.append({k: float(v) for k, v in row.items() if is_number(v)})
        except (ValueError, AttributeError, RecursionError):
            damaged += 1
    # The last line of a run that was killed is often incomplete, which is not reported.
    if damaged > 1:
        problems.append(f"{journal}: {damaged} lines are unreadable")
    previews = sorted((folder / RUN_SAMPLES).glob("*.png")) if (folder / RUN_SAMPLES).is_dir() else []
    preview = Path(RUN_SAMPLES) / previews[-1].name if previews else None
    shown = _text(config, problems, _MOST_CONFIG)
    return Run(name, folder, [row for row in rows if "step" in row], shown, preview, _planned(config))


def _planned(config: Path) -> int | None:
    """The steps that a run was started for, where its settings can be read and say so."""
    try:
        steps = mapping(read_yaml(config), "training").get("steps")
    except InvalidFile:
        return None
    return steps if isinstance(steps, int) and is_number(steps) else None


def _text(path: Path, problems: list[str], most: int | None = None) -> str:
    """The text of a file, of at most `most` bytes; "" where there is none. What is not UTF-8 is replaced."""
    if not path.is_file():
        return ""
    try:
        with path.open("rb") as file:
            return file.read(-1 if most is None else most).decode("utf-8", errors="replace")
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}")
        return ""


def mapping(record: dict[str, Any], key: str) -> dict[str, Any]:
    """A section of a record that any program may have written; {} where it is not a mapping."""
    section = record.get(key)
    return section if isinstance(section, dict) else {}


def _add_samples(found: Collection, folder: Path, name: str) -> None:
    try:
        record = read_json(folder / SAMPLES_RECORD)
    except InvalidFile as error:
        found.problems.append(str(error))
        record = {}
    wanted = mapping(record, "job").get("count")
    if "labels" not in record and isinstance(wanted, int):
        made = sum(1 for path in (folder / IMAGES).glob("*.png") if not path.name.startswith("."))
        if made < wanted:
            found.problems.append(f"{folder} is not finished: {made} of {wanted} images")
    if not (folder / GRID).is_file():
        found.problems.append(f"{folder} has no grid.png")
        return
    found.samples.append(SampleGrid(name, folder, record))


def _add_steps(found: Collection, path: Path) -> None:
    try:
        stored = read_json(path)
    except InvalidFile as error:
        found.problems.append(str(error))
        return
    steps = stored.get("steps")
    found.steps += [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    found.title = found.title or str(stored.get("title") or "")


def _add_result(found: Collection, path: Path, quietly: bool = False) -> None:
    try:
        stored = read_json(path)
        if quietly and not {"kind", "title"} <= stored.keys():
            return  # some other JSON file
        found.results.append((Result.from_dict(stored, str(path)), path))
    except InvalidFile as error:
        found.problems.append(str(error))


def _start(run: Run) -> float:
    config = run.folder / RUN_CONFIG
    return config.stat().st_mtime if config.is_file() else math.inf
