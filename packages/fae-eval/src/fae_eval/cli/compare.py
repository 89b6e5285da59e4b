"""`fae eval compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fae_core.cli.options import Overwrite
from fae_eval.cli.options import ResultFile, Title, draw_beside, finish, names_and_paths, result_path

if TYPE_CHECKING:
    from fae_eval.results import Result


def compare(
    groups: Annotated[
        list[str],
        typer.Argument(
            help="NAME=RECORDS, one per variant: result files of its seeds; * in the last part of a path. Or one "
            "FOLDER, in which each folder of result files is a variant of its name."
        ),
    ],
    column: Annotated[
        str | None,
        typer.Option("--column", help="Whose values; default: the Frechet distance, else the last numeric column."),
    ] = None,
    row: Annotated[
        str | None, typer.Option("--row", help="Of records without steps, by its first cell; default: the first row.")
    ] = None,
    higher_is_better: Annotated[
        bool | None,
        typer.Option(
            "--higher-is-better/--lower-is-better",
            help="Which way is better; default: by the column's name, for those that fae eval writes.",
        ),
    ] = None,
    title: Title = None,
    out: ResultFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Variants of an experiment over their seeds: means, deviations, and differences in units of the seeds' noise.

    Warns where records compare with different references or numbers of images. With --out a chart, NAME.svg, is written
    beside the record.

    Example: fae eval compare "FAE=runs/results/fae-*.json" "VAE=runs/results/vae-*.json"
    --out runs/results/fae-vae.json
    """
    from fae_eval.studies.comparison import compare as compare_groups
    from fae_eval.studies.comparison import parse_groups

    path = result_path(out, "comparison", overwrite, ".svg")
    given = _variants(groups) or names_and_paths(groups, "group", "NAME=RECORDS")
    read, chosen = parse_groups({name: _records(name, where) for name, where in given.items()}, column, row)
    heading = title or "Comparison"
    lower_is_better = None if higher_is_better is None else not higher_is_better
    result = compare_groups(read, column=chosen, lower_is_better=lower_is_better, title=heading)
    if path is not None:
        draw_beside(result, path, read, y_label=chosen)
    finish(result, path)


def _variants(groups: list[str]) -> dict[str, str]:
    """The variants in a folder, where one is all that is given."""
    folder = Path(groups[0])
    if len(groups) > 1 or not folder.is_dir():
        return {}
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and any(path.glob("[!.]*.json")))
    return {path.name: str(path / "[!.]*.json") for path in inner}


def _records(name: str, where: str) -> list[Result]:
    """The records of a group in order of their files. Raises FAEError where there are none."""
    from fae_core.errors import FAEError
    from fae_eval.results import Result

    path = Path(where)
    try:
        files = sorted(path.parent.glob(path.name))
    except (ValueError, NotImplementedError, OSError):  # "**" in a name, no name, one that is too long
        files = []
    if not files:
        raise FAEError(f"{name}: there is no record {where}")
    return [Result.load(file) for file in files]
