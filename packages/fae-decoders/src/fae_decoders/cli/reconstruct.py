"""`fae reconstruct`: images through a tokenizer and back."""

from __future__ import annotations

from typing import Annotated

import typer

from fae_core.cli.options import BatchSize, Device, Out, Overwrite
from fae_core.config.limits import MOST_COLUMNS
from fae_decoders.cli.train_autoencoder import Data, Split


def reconstruct(
    model: Annotated[
        str, typer.Option("--model", help="Run folder, model folder, bundle or hub id of an FAE or another tokenizer.")
    ],
    data: Data,
    out: Out,
    split: Split = None,
    count: Annotated[int, typer.Option("--count", min=1, help="At most so many images, evenly spread.")] = 1000,
    pairs: Annotated[
        int, typer.Option("--pairs", min=1, max=MOST_COLUMNS, help="Pairs in the side-by-side picture.")
    ] = 16,
    files: Annotated[
        bool, typer.Option("--files/--no-files", help="Also write every reconstruction to OUT/images.")
    ] = False,
    batch_size: BatchSize = 32,
    overwrite: Overwrite = False,
    device: Device = None,
) -> None:
    """Reconstruct images: OUT/pairs.png (originals above reconstructions), images/*.png, results/reconstruction.json.

    Example: fae reconstruct --model runs/fae --data IMAGES --out runs/reconstruction
    """
    from fae_core.files import staged_folder
    from fae_core.images import readable_source
    from fae_core.models.load import load_tokenizer
    from fae_core.processes import resolve_device
    from fae_decoders.reconstruction import Reconstruction

    source = readable_source(data, split)
    if count < len(source):
        source = source.select([i * len(source) // count for i in range(count)])
    device = resolve_device(device)
    tokenizer = load_tokenizer(model, device=device)
    with staged_folder(out, overwrite=overwrite) as staging:
        job = Reconstruction(tokenizer, source, batch_size, device)
        record = job.run(staging, pairs=pairs, files=files, facts={"model": model, "data": data})
    for name, value in record["table"]["rows"]:
        typer.echo(f"{name:<28}{value:.4g}")
    typer.echo(f"wrote {out}/pairs.png and {out}/results/reconstruction.json; next: fae eval report {out}")
