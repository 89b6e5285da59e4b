"""`fae demo`: the whole method on eight photographs, in 4 to 11 minutes on two free CPU cores."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fae_core.cli.options import Overwrite, Resume, images_there
from fae_core.commands.output import say
from fae_core.config.limits import MOST_PROCESSES

_MEMORY_OF_TWO = 4 * 10**9  # bytes that two of its steps at once take at most, and some to spare


def demo(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            callback=images_there,
            help="Image folder, one subfolder per class; default: the photographs of scikit-image.",
        ),
    ] = "photographs",
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("runs/demo"),
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            min=1,
            max=MOST_PROCESSES,
            help="Steps at once, which share the cores; default: 2 where there are two cores and 4 GB, else 1.",
        ),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train an adapter, both decoders, a diffusion transformer and a flow on a few photographs; write a report.

    On two cores, two steps at once with one thread each take less time than one after the other with two threads, most
    of all beside other work. logs/ has the output of each.

    Example: fae demo --data my-photos --out runs/my-photos
    """
    from fae_core.recipes.recipe import load_recipe, run_recipe

    since = time.monotonic()
    packaged = Path(__file__).parents[1] / "recipes" / "demo.yaml"
    run_recipe(
        load_recipe(packaged, {"data": data}), out, resume=resume, overwrite=overwrite, jobs=jobs or _jobs_that_fit()
    )
    say(f"wrote {out}/report.html in {time.monotonic() - since:.0f} s; open it in a browser")


def _jobs_that_fit() -> int:
    """Two where there are cores and memory for two, else one."""
    from fae_core.machine import available_cores, available_memory

    return 2 if available_cores() > 1 and available_memory() >= _MEMORY_OF_TWO else 1
