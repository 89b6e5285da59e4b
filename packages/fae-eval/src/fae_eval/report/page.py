"""The page of a report: what was found, in the order in which a reader asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from fae_core.files import disk_errors, write_atomic
from fae_core.folders import GRID, PAIRS, RESULTS
from fae_eval._version import __version__
from fae_eval.report.collect import Collection, SampleGrid, collect, mapping
from fae_eval.report.curves import convergence_charts, run_charts, side_charts
from fae_eval.report.html import code, details, picture, section, table, text
from fae_eval.report.paper import REFERENCE, SOURCE
from fae_eval.results import FLOOR, Result, format_cell, is_number, provenance_line

_VIEWS = ("similarity", "matching", "pca")


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
        paper: whether to put the paper's own tables beside ours, marked as the paper's.

    Raises:
        DataError: where there is nothing to report.
    """
    found = collect(runs)
    page = render(found, title=title, note=note, paper=paper, names=[str(run) for run in runs])
    out = Path(out)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, page.encode(errors="replace"))  # names of files, and records, may hold lone surrogates
    return out


def render(found: Collection, *, title: str | None, note: str | None, paper: bool, names: Sequence[str]) -> str:
    """The HTML of a page, without scripts and without addresses other than data: ones.

    Args:
        found: what is shown.
        title: headline; None takes the recipe's title, or `names`.
        note: below the headline.
        paper: whether to show the paper's tables too.
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
        ("curves", "Training", _curves(found), "Steps below, seconds above; the legend has the last value."),
        ("numbers", "Numbers", _tables(found, paper), ""),
        ("time", "Time", _times(found), ""),
        ("settings", "Settings", _settings(found), "Every setting as resolved, so that a run can be repeated."),
        ("reproduce", "How to reproduce", _reproduce(found), ""),
    ]
    shown = [part for part in parts if part[2]]
    navigation = "".join(f'<a href="#{anchor}">{text(name)}</a>' for anchor, name, _, _ in shown)
    body = "".join(section(anchor, name, content, lead) for anchor, name, content, lead in shown)
    style = files("fae_eval.report").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(heading)}</title><style>{style}</style></head><body><main>"
        f"<h1>{text(heading)}</h1>{_subtitle(found, names)}{_cards(found)}{_note(note)}"
        f"{_problems(found)}<nav>{navigation}</nav>{body}"
        f"<footer>Written by fae-eval {__version__}; this page needs no network.</footer></main></body></html>\n"
    )


def _subtitle(found: Collection, names: Sequence[str]) -> str:
    facts = [", ".join(names), datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")]
    machine = next((r.provenance["machine"] for r, _ in found.results if "machine" in r.provenance), None)
    device = next((r.provenance["device"] for r, _ in found.results if "device" in r.provenance), None)
    facts += [str(value) for value in (device, machine) if value]
    return f'<p class="sub">{text(" · ".join(facts))}</p>'


def _cards(found: Collection) -> str:
    """The main numbers, at the top of the page."""
    cards: list[tuple[str, Any]] = []
    for result, _ in found.results:
        wanted = {"reconstruction": ("PSNR [dB]", "feature cosine")}.get(result.kind, ())
        cards += [(f"{name}, {result.title}", result.values[name]) for name in wanted if name in result.values]
        if result.kind == "generation":
            column = next((i for i, c in enumerate(result.columns) if str(c).startswith(("FID", "FD-"))), None)
            if column is not None:
                cards += [(f"{result.columns[column]}, {row[0]}", row[column]) for row in result.rows]
    total = sum(seconds for _, seconds in _timed_steps(found)) or sum(run.seconds or 0 for run in found.runs)
    if total:
        cards.append(("all stages together" if found.steps else "training in all", _duration(total)))
    seen = dict(cards[:8])
    items = "".join(
        f'<div class="card"><b>{text(format_cell(value))}</b><span>{text(name)}</span></div>'
        for name, value in seen.items()
    )
    return f'<div class="cards">{items}</div>' if items else ""


def _note(note: str | None) -> str:
    if not note or not note.strip():
        return ""
    paragraphs = "".join(f"<p>{text(part.strip())}</p>" for part in note.split("\n\n") if part.strip())
    return f'<div class="note">{paragraphs}</div>'


def _problems(found: Collection) -> str:
    return "".join(f'<p class="warning">{text(problem)}</p>' for problem in found.problems)


def _figures(found: Collection, kinds: Sequence[str]) -> str:
    """Pictures of records of these kinds, two abreast where they are narrow; small tables go below their picture."""
    blocks = []
    for kind in kinds:
        for result, folder in found.results:
            if result.kind != kind or not result.figures:
                continue
            shown = "".join(_figure(folder, f) for f in result.figures)
            if kind in _VIEWS and result.table:
                shown += table(result.columns, result.rows) + _provenance(result)
            blocks.append(f'<div class="block"><h3>{text(result.title)}</h3>{shown}</div>')
    return f'<div class="pictures">{"".join(blocks)}</div>' if blocks else ""


def _figure(folder: Path, figure: dict[str, Any]) -> str:
    """A picture beside its record; records of earlier versions name pairs.png one folder above."""
    path = figure["path"]
    if folder.name == RESULTS and path == f"../{PAIRS}":
        folder, path = folder.parent, PAIRS
    return picture(folder, path, str(figure.get("caption", "")))


def _samples(found: Collection) -> str:
    blocks = [
        f'<div class="block"><h3>{text(grid.name)}</h3>{picture(grid.folder, GRID, _sample_caption(grid))}</div>'
        for grid in found.samples
    ]
    own = _figures(found, ("samples",))
    if not blocks and not own:
        previews = [(run, picture(run.folder, run.preview, f"step {run.steps}")) for run in found.runs if run.preview]
        blocks = [f'<div class="block"><h3>{text(run.name)}, last preview</h3>{shown}</div>' for run, shown in previews]
    return (f'<div class="pictures">{"".join(blocks)}</div>' if blocks else "") + own


def _sample_caption(grid: SampleGrid) -> str:
    job, seconds = mapping(grid.record, "job"), mapping(grid.record, "provenance").get("seconds")
    parts = [f"{name} {job[name]}" for name in ("count", "guidance", "seed", "labels") if name in job]
    return ", ".join([*parts, *([f"{seconds:.1f} s"] if is_number(seconds) else [])])


def _curves(found: Collection) -> str:
    charts = "".join(run_charts(run) for run in found.runs)
    unfinished = "".join(
        f'<p class="warning">{text(f"{run.name}: {run.shortfall}")}</p>' for run in found.runs if run.shortfall
    )
    aside = "".join(side_charts(run) for run in found.runs)
    folded = details("learning rates and gradients", f'<div class="plots">{aside}</div>') if aside else ""
    return unfinished + (f'<div class="plots">{charts}</div>{folded}' if charts else "")


def _tables(found: Collection, paper: bool) -> str:
    blocks = []
    for result, _ in found.results:
        if result.kind in _VIEWS or not (result.table or result.warnings or result.notes):
            continue
        block = f"<h3>{text(result.title)}</h3>"
        if result.table:
            floor = ["floor" if row and row[0] == FLOOR else "" for row in result.rows]
            block += table(result.columns, result.rows, classes=floor)
        block += convergence_charts(result)
        block += "".join(f'<p class="lead">{text(note)}</p>' for note in result.notes)
        block += "".join(f'<p class="warning">{text(warning)}</p>' for warning in result.warnings)
        blocks.append(block + _provenance(result))
    if paper:
        blocks += [
            f'<div class="paper"><h3>{text(name)}<span class="tag">the paper\'s</span></h3>{table(columns, rows)}'
            f'<p class="lead">{text(SOURCE)}.</p></div>'
            for name, columns, rows in REFERENCE
        ]
    return "".join(blocks)


def _provenance(result: Result) -> str:
    if not result.provenance:
        return ""
    return details("how this was measured", f'<p class="facts">{text(provenance_line(result.provenance))}</p>')


def _times(found: Collection) -> str:
    rows = _timed_steps(found) or [(run.name, run.seconds) for run in found.runs if run.seconds]
    if not rows:
        return ""
    longest, total = max(seconds for _, seconds in rows), sum(seconds for _, seconds in rows)
    lines = "".join(
        f'<tr><td>{text(name)}</td><td class="n">{seconds:,.1f} s</td>'
        f'<td class="bar"><i style="width:{100 * seconds / (longest or 1):.1f}%"></i></td></tr>'
        for name, seconds in rows
    )
    lines += f'<tr><td>together</td><td class="n">{total:,.1f} s</td><td></td></tr>'
    head = "<thead><tr><th>stage</th><th>seconds</th><th></th></tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{lines}</tbody></table></div>'


def _timed_steps(found: Collection) -> list[tuple[str, float]]:
    return [
        (str(step.get("name", step.get("command", ""))), float(step["seconds"]))
        for step in found.steps
        if is_number(step.get("seconds"))
    ]


def _settings(found: Collection) -> str:
    return "".join(details(run.name, code(run.config)) for run in found.runs if run.config)


def _reproduce(found: Collection) -> str:
    commands = [str(step["command"]) for step in found.steps if step.get("command")]
    if not commands:
        commands = [str(r.provenance["command"]) for r, _ in found.results if r.provenance.get("command")]
    commands = list(dict.fromkeys(commands))
    versions = next(
        (r.provenance["versions"] for r, _ in found.results if isinstance(r.provenance.get("versions"), dict)), {}
    )
    body = code("\n".join(commands)) if commands else ""
    if versions:
        body += (
            f'<p class="facts">{text("with " + ", ".join(f"{name} {number}" for name, number in versions.items()))}</p>'
        )
    return body


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    if minutes >= 10:
        return f"{round(seconds / 60)} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
