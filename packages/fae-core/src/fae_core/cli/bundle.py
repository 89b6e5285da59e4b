"""`fae bundle`: a tokenizer and a generator as one small folder that `fae sample --model` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fae_core.cli.options import Generator, NewOut, Overwrite, decoder_there, path_there
from fae_core.commands.output import say


def bundle(
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            callback=decoder_there,
            help="Run folder, model folder or hub id of a tokenizer that decodes.",
        ),
    ],
    generator: Generator,
    out: NewOut,
    dtype: Annotated[str, typer.Option("--dtype", help="float16, bfloat16 or float32 weights on disk.")] = "float16",
    description: Annotated[str | None, typer.Option("--description", help="One sentence for the card.")] = None,
    notes: Annotated[
        list[str] | None, typer.Option("--note", help="A paragraph for the card, e.g. date and machine; repeatable.")
    ] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", callback=path_there, help="A .json of `fae eval`, for the card; repeatable."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Put a tokenizer and a generator of its latents into one folder.

    OUT gets tokenizer/, generator/, bundle.json and README.md.

    Example: fae bundle --tokenizer runs/fae --generator runs/dit --out bundle --results runs/results/generation.json
    """
    from fae_core.bundle.card import read_results
    from fae_core.commands.running import command_line
    from fae_core.errors import require_known
    from fae_core.files import require_new_folder
    from fae_core.models.bundles import DTYPES
    from fae_core.models.stored import require_pair, stored_model

    require_known("dtype", [dtype], DTYPES)
    require_pair(stored_model("generator", generator), stored_model("tokenizer", tokenizer))
    require_new_folder(out, overwrite=overwrite, inputs=(tokenizer, generator, *(results or ())))
    for path in results or ():
        read_results(path)
    from fae_core.bundle.make import folder_bytes, make_bundle

    folder = make_bundle(
        tokenizer,
        generator,
        out,
        dtype=dtype,
        description=description,
        notes=notes or (),
        results=results or (),
        overwrite=overwrite,
    )
    following = command_line("sample", model=folder, out="SAMPLES")
    say(f"wrote {folder} ({folder_bytes(folder) / 1e6:.1f} MB); next: {following}")
