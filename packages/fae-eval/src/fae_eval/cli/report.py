"""`fae eval report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fae_core.cli.options import Overwrite
from fae_core.commands.output import say
from fae_core.folders import REPORT


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, folders of runs, or result records (.json).")],
    out: Annotated[
        Path | None, typer.Option("--out", help="HTML file to write. Default: report.html in the first folder.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Headline.")] = None,
    note: Annotated[
        str | None, typer.Option("--note", help="What this shows and what it does not; shown below the headline.")
    ] = None,
    note_file: Annotated[Path | None, typer.Option("--note-file", help="The same from a text file.")] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="Put the paper's tables and others' since beside ours, marked as published.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """One self-contained HTML page with samples, reconstructions, similarity maps, curves, tables, times and settings.

    A report only shows what the folders hold, so an earlier one called report.html is replaced without --overwrite.

    Example: fae eval report runs/demo --note "Eight photographs only: this shows that the parts work together."
    """
    from fae_core.documents import read_text
    from fae_core.errors import FAEError
    from fae_core.files import claim_file, disk_errors
    from fae_eval.report import is_report, write_report

    if note and note_file:
        raise FAEError("give --note or --note-file, not both")
    if note_file is not None:
        note = read_text(note_file, error=FAEError)
    folder = runs[0] if runs[0].is_dir() else runs[0].parent
    target = out or folder / REPORT
    with disk_errors(target):
        if target.is_dir() and not target.is_symlink():
            target = target / REPORT
    claim_file(target, overwrite=overwrite or (target.name == REPORT and is_report(target)))
    write_report(runs, target, title=title, note=note, paper=paper)
    say(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB); next: open it in a browser")
