"""The page of a report: what was found, in the order in which a reader asks for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fae_core.files import disk_errors, write_atomic
from fae_core.folders import GRID, PAIRS, RESULTS
from fae_eval._version import __version__
from fae_eval.report.collect import Collection, SampleGrid, collect, mapping
from fae_eval.report.curves import convergence_charts, run_charts, side_charts
from fae_eval.report.html import join, page, part, picture, table
from fae_eval.report.paper import REFERENCE
from fae_eval.results import FLOOR, Result, format_cell, is_number, provenance_line

_END, _SIGNED = 400, b"<footer>Written by fae-eval "  # bytes of a page's end, and what is in them
_VIEWS = ("similarity", "matching", "pca")
_MOST_CARDS = 8


def write_report(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    title: str | None = None,
    note: str | None = None,
    paper: bool = False,
) -> Path:
    """Write one HTML page about runs, folders of runs and result records; returns its path.

    Args:
        runs: folders and .json files.
        out: the HTML file.
        title: headline; None takes the recipe's title, or the folders' names.
        note: what this shows and what it does not, below the headline; blank lines separate paragraphs.
        paper: whether to put the paper's own tables, and others' results since, beside ours, marked as published.

    Raises:
        DataError: where there is nothing to report.
    """
    found = collect(runs)
    rendered = render(found, title=title, note=note, paper=paper, names=[str(run) for run in runs])
    out = Path(out)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, rendered.encode(errors="replace"))  # names of files, and records, may hold lone surrogates
    return out


def is_report(path: str | Path) -> bool:
    """Whether a file is a page that `write_report` wrote, by what is at its end.

    Args:
        path: of the file; absent files are none.
    """
    path = Path(path)
    with disk_errors(path):
        if not path.is_file():
            return False
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _END))
            return _SIGNED in file.read()


def render(found: Collection, *, title: str | None, note: str | None, paper: bool, names: Sequence[str]) -> str:
    """The HTML of a page, without scripts and without addresses other than data: ones.

    Args:
        found: what is shown.
        title: headline; None takes the recipe's title, or `names`.
        note: below the headline.
        paper: whether to show published tables too.
        names: of the folders, for the headline.
    """
    heading = title or found.title or f"FAE report: {', '.join(Path(name).resolve().name for name in names)}"
    parts = [
        (
            "reconstructions",
            "Reconstructions",
            _figures(found, ("reconstruction",)),
            "Images, encoded to latents and decoded again.",
        ),
        ("samples", "Samples", _samples(found), "New images, one block per generator; nothing was picked by hand."),
        ("latents", "What the latents keep", _figures(found, _VIEWS), ""),
        (
            "comparisons",
            "Comparisons",
            _figures(found, ("comparison",)),
            "Means over seeds, with the range of the runs.",
        ),
        (
            "guidance",
            "Guidance",
            _figures(found, ("guidance-search", "sampling-grid")),
            "The distance at each scale, from the same noise.",
        ),
        (
            "curves",
            "Training",
            _curves(found),
            "Steps below, seconds above; the legend has the last value, a pointer on the chart those of its place.",
        ),
        ("numbers", "Numbers", _tables(found, paper), ""),
        ("time", "Time", _times(found), ""),
        ("settings", "Settings", _settings(found), "Every setting as resolved, so that a run can be repeated."),
        ("reproduce", "How to reproduce", _reproduce(found), ""),
    ]
    return page(
        title=heading,
        subtitle=_subtitle(found, names),
        style=Markup(files("fae_eval.report").joinpath("style.css").read_text(encoding="utf-8")),
        cards=_cards(found),
        note=[line.strip() for line in (note or "").split("\n\n") if line.strip()],
        problems=found.problems,
        parts=[
            {"anchor": anchor, "name": name, "body": content, "lead": lead}
            for anchor, name, content, lead in parts
            if content
        ],
        version=__version__,
    )


def _subtitle(found: Collection, names: Sequence[str]) -> str:
    facts = [", ".join(names), datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")]
    machine = next((r.provenance["machine"] for r, _ in found.results if "machine" in r.provenance), None)
    device = next((r.provenance["device"] for r, _ in found.results if "device" in r.provenance), None)
    return " · ".join([*facts, *(str(value) for value in (device, machine) if value)])


def _cards(found: Collection) -> Markup:
    """The main numbers, at the top of the page; with the title of their record where several have the same label."""
    cards: list[tuple[str, str, Any]] = []  # title, label, value
    for result, _ in found.results:
        wanted = {"reconstruction": ("PSNR [dB]", "feature cosine")}.get(result.kind, ())
        cards += [(result.title, name, result.values[name]) for name in wanted if name in result.values]
        if result.kind == "generation":
            column = next((i for i, c in enumerate(result.columns) if str(c).startswith(("FID", "FD-"))), None)
            if column is not None:
                label = result.columns[column]
                cards += [(result.title, f"{label}, {row[0]}", row[column]) for row in result.rows]
    total = sum(seconds for _, seconds in _timed_steps(found)) or sum(run.seconds or 0 for run in found.runs)
    if total:
        cards.append(("", "all steps, added up" if found.steps else "training in all", _duration(total)))
    labels = Counter(label for _, label, _ in cards)
    items = [
        (title if labels[label] > 1 else "", label, format_cell(value)) for title, label, value in cards[:_MOST_CARDS]
    ]
    return part("cards", items) if items else Markup("")


def _figures(found: Collection, kinds: Sequence[str]) -> Markup:
    """Pictures of records of these kinds, two abreast where they are narrow; small tables go below their picture."""
    blocks = []
    for kind in kinds:
        for result, path in found.results:
            if result.kind != kind or not result.figures:
                continue
            shown = join([_figure(path.parent, f) for f in result.figures])
            if kind in _VIEWS and result.table:
                shown += table(result.columns, result.rows) + _warnings(result) + _provenance(result)
            blocks.append(part("block", result.title, shown))
    return _group("pictures", blocks)


def _group(style: str, parts: Sequence[Markup]) -> Markup:
    """Parts beside each other; nothing where there are none."""
    return part("group", style, parts) if parts else Markup("")


def _figure(folder: Path, figure: dict[str, Any]) -> Markup:
    """A picture beside its record; records of earlier versions name pairs.png one folder above."""
    path = figure["path"]
    if folder.name == RESULTS and path == f"../{PAIRS}":
        folder, path = folder.parent, PAIRS
    return picture(folder, path, str(figure.get("caption", "")), figure.get("columns"))


def _samples(found: Collection) -> Markup:
    blocks = [part("block", grid.name, picture(grid.folder, GRID, _sample_caption(grid))) for grid in found.samples]
    own = _figures(found, ("samples",))
    if not blocks and not own:
        previews = [(run, picture(run.folder, run.preview, f"step {run.steps}")) for run in found.runs if run.preview]
        blocks = [part("block", f"{run.name}, last preview", shown) for run, shown in previews]
    return _group("pictures", blocks) + own


def _sample_caption(grid: SampleGrid) -> str:
    job, seconds = mapping(grid.record, "job"), mapping(grid.record, "provenance").get("seconds")
    job = {name: "the model's own" if name == "guidance" and job[name] is None else job[name] for name in job}
    parts = [f"{name} {job[name]}" for name in ("count", "guidance", "seed", "labels") if name in job]
    return ", ".join([*parts, *([f"{seconds:.1f} s"] if is_number(seconds) else [])])


def _curves(found: Collection) -> Markup:
    charts = [chart for run in found.runs for chart in run_charts(run)]
    unfinished = [part("paragraph", "warning", f"{run.name}: {run.shortfall}") for run in found.runs if run.shortfall]
    aside = [chart for run in found.runs for chart in side_charts(run)]
    folded = part("details", "learning rates and gradients", _group("plots", aside)) if aside else Markup("")
    return join(unfinished) + (_group("plots", charts) + folded if charts else Markup(""))


def _tables(found: Collection, paper: bool) -> Markup:
    blocks = []
    for result, _ in found.results:
        if result.kind in _VIEWS or not (result.table or result.warnings or result.notes):
            continue
        block = [part("heading", result.title, "")]
        if result.table:
            floor = ["floor" if row and row[0] == FLOOR else "" for row in result.rows]
            block.append(table(result.columns, result.rows, classes=floor))
        block.append(_group("plots", convergence_charts(result)))
        block += [part("paragraph", "lead", note) for note in result.notes]
        blocks += [*block, _warnings(result), _provenance(result)]
    if paper:
        blocks += [
            _group(
                "paper",
                [
                    part("heading", known.title, known.whose),
                    table(known.columns, known.rows),
                    part("paragraph", "lead", f"{known.source}."),
                ],
            )
            for known in REFERENCE
        ]
    return join(blocks)


def _warnings(result: Result) -> Markup:
    return join([part("paragraph", "warning", warning) for warning in result.warnings])


def _provenance(result: Result) -> Markup:
    if not result.provenance:
        return Markup("")
    return part("details", "how this was measured", part("paragraph", "facts", provenance_line(result.provenance)))


def _times(found: Collection) -> Markup:
    rows = _timed_steps(found) or [(run.name, run.seconds) for run in found.runs if run.seconds]
    if not rows:
        return Markup("")
    longest, total = max(seconds for _, seconds in rows), sum(seconds for _, seconds in rows)
    lines = [(name, f"{seconds:,.1f} s", f"{100 * seconds / (longest or 1):.1f}") for name, seconds in rows]
    return part("times", lines, f"{total:,.1f} s")


def _timed_steps(found: Collection) -> list[tuple[str, float]]:
    return [
        (str(step.get("name", step.get("command", ""))), float(step["seconds"]))
        for step in found.steps
        if is_number(step.get("seconds"))
    ]


def _settings(found: Collection) -> Markup:
    return join([part("details", run.name, part("code", run.config)) for run in found.runs if run.config])


def _reproduce(found: Collection) -> Markup:
    commands = [str(step["command"]) for step in found.steps if step.get("command")]
    if not commands:
        commands = [str(r.provenance["command"]) for r, _ in found.results if r.provenance.get("command")]
    commands = list(dict.fromkeys(commands))
    versions = next(
        (r.provenance["versions"] for r, _ in found.results if isinstance(r.provenance.get("versions"), dict)), {}
    )
    body = part("code", "\n".join(commands)) if commands else Markup("")
    if versions:
        listed = ", ".join(f"{name} {number}" for name, number in versions.items())
        body += part("paragraph", "facts", f"with {listed}")
    return body


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    if minutes >= 10:
        return f"{round(seconds / 60)} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
