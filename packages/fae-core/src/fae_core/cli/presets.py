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
    from fae_core.errors import UnknownName
    from fae_core.models.bundles import bundle_folders, read_bundle
    from fae_core.models.presets import preset_files, read_preset

    contents = {name: read_preset(path) for name, path in preset_files().items()}
    contents |= {name: _as_preset(read_bundle(folder)) for name, folder in bundle_folders().items()}
    kinds = {"bundle"} | {content.get("model_type", "") for content in contents.values()}
    if kind is not None and kind not in kinds:
        raise UnknownName("model type", kind, kinds)
    columns = ("parameters", "the paper prints") if counts else ("description",)
    table = Table("preset", "type", *columns, box=None, pad_edge=False)
    chosen = [item for item in contents.items() if kind is None or item[1].get("model_type") == kind]
    ordered = sorted(chosen, key=lambda item: (item[1].get("model_type", ""), item[0]))
    for name, content in ordered:
        about = _counts(content) if counts else (content.get("description", ""),)
        table.add_row(name, content.get("model_type", ""), *about)
    document([{"name": name, **content} for name, content in ordered])
    say(table)


def _as_preset(bundle: dict[str, Any]) -> dict[str, Any]:
    parameters = sum(bundle[part].get("parameters", 0) for part in ("tokenizer", "generator"))
    return {"model_type": "bundle", "description": bundle.get("description", ""), "parameters": parameters}


def _counts(preset: dict[str, Any]) -> tuple[str, str]:
    """The number of parameters that a preset states (its package's tests count them), and what the paper prints."""
    stated, paper = preset.get("parameters"), preset.get("paper", {})
    return "" if stated is None else f"{stated:,}", str(paper.get("printed", ""))
