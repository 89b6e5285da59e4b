"""`fae demo`: the whole method on eight photographs, in five to nine minutes on two CPU cores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fae_core.cli.options import Overwrite, Resume
from fae_core.commands.output import say


def demo(
    data: Annotated[
        str,
        typer.Option("--data", help="Image folder, one subfolder per class; default: the photographs of scikit-image."),
    ] = "photographs",
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("runs/demo"),
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train an adapter, both decoders, a diffusion transformer and a flow on a few photographs; write a report.

    Example: fae demo --data my-photos --out runs/my-photos
    """
    from fae_core.recipes.recipe import load_recipe, run_recipe

    packaged = Path(__file__).parents[1] / "recipes" / "demo.yaml"
    record = run_recipe(load_recipe(packaged, {"data": data}), out, resume=resume, overwrite=overwrite)
    say(f"wrote {out}/report.html in {sum(entry['seconds'] for entry in record):.0f} s; open it in a browser")
