"""`fae run`: run a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fae_core.cli.options import Out, Overwrite, Resume, SetVariable
from fae_core.commands.output import say
from fae_core.config.limits import MOST_PROCESSES


def run(
    recipe: Annotated[Path, typer.Argument(help="YAML file with the steps.")],
    out: Out,
    size: Annotated[
        str | None, typer.Option("--size", help="One of the recipe's sets of variables, such as smoke, cpu or gpu.")
    ] = None,
    overrides: SetVariable = None,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            min=1,
            max=MOST_PROCESSES,
            help="Run up to so many independent steps together, in as many processes; logs/ has their output.",
        ),
    ] = 1,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="STEP",
            help="Run this step, and the earlier ones whose results it reads; a name or a pattern such as 'latents-*', "
            "several times if need be.",
        ),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Run a recipe: its commands one after another, recorded with their seconds. --set replaces its variables.

    A variable that is a text in the recipe takes any text as it is, such as the name of a folder; others are YAML.
    Small models leave most of a GPU idle; --jobs 8 runs eight such steps on it together, and their seconds say little.

    Example: fae run recipes/cifar10-cpu.yaml --out runs/cifar10 --set data=train.parquet
    """
    from fae_core.cli.settings import parse_variables
    from fae_core.commands.running import command_line
    from fae_core.recipes.recipe import declared_variables, load_recipe, run_recipe

    loaded = load_recipe(recipe, parse_variables(overrides, declared_variables(recipe)), size)
    record = run_recipe(loaded, out, resume=resume, overwrite=overwrite, jobs=jobs, only=only or ())
    seconds = sum(entry["seconds"] for entry in record)
    say(f"wrote {out}; its steps took {seconds:.0f} s; next: {command_line('eval report', out)}")
