"""`fae presets`: the presets and bundles that are installed."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def presets(
    kind: Annotated[str | None, typer.Argument(help="Show one model type only, e.g. lightningdit.")] = None,
    counts: Annotated[
        bool, typer.Option("--counts", help="Show parameters, and what the paper prints, instead of descriptions.")
    ] = False,
) -> None:
    """List every preset of the installed packages, and the bundles (trained models) that they carry.

    Example: fae presets lightningdit
    """
    from rich.table import Table

    from fae_core.commands.output import document, say
    from fae_core.models.presets import BUNDLE, presets_of_kind

    contents = presets_of_kind(kind) | ({} if kind is not None else presets_of_kind(BUNDLE))
    columns = ("parameters", "the paper prints") if counts else ("description",)
    table = Table("preset", "type", *columns, box=None, pad_edge=False)
    ordered = sorted(contents.items(), key=lambda item: (item[1]["model_type"], item[0]))
    for name, content in ordered:
        about = _counts(content) if counts else (content.get("description", ""),)
        table.add_row(name, content["model_type"], *about)
    document([{"name": name, **content} for name, content in ordered])
    say(table)


def _counts(preset: dict[str, Any]) -> tuple[str, str]:
    """The number of parameters that a preset states (its package's tests count them), and what the paper prints."""
    stated, paper = preset.get("parameters"), preset.get("paper", {})
    return "" if stated is None else f"{stated:,}", str(paper.get("printed", ""))
