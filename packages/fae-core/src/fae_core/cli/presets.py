"""`fae presets`: what can be built by name."""

from __future__ import annotations

from typing import Annotated

import typer


def presets(
    kind: Annotated[str | None, typer.Argument(help="Show one model type only, e.g. lightningdit.")] = None,
) -> None:
    """List every preset of the installed packages.

    Example: fae presets lightningdit
    """
    from rich.console import Console
    from rich.table import Table

    from fae_core.errors import UnknownName
    from fae_core.files import read_yaml
    from fae_core.presets import preset_files

    contents = {name: read_yaml(path) for name, path in preset_files().items()}
    kinds = {content.get("model_type", "") for content in contents.values()}
    if kind is not None and kind not in kinds:
        raise UnknownName("model type", kind, kinds)
    table = Table("preset", "type", "description", box=None, pad_edge=False)
    for name, content in sorted(contents.items(), key=lambda item: (item[1].get("model_type", ""), item[0])):
        if kind is None or content.get("model_type") == kind:
            table.add_row(name, content.get("model_type", ""), content.get("description", ""))
    Console().print(table)
