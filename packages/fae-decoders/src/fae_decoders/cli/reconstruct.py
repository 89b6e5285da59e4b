"""`fae reconstruct`: images through a tokenizer and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fae_core.cli.options import BatchSize, Data, Device, NewOut, Overwrite, Split, Survey, decoder_there, path_there
from fae_core.commands.output import say
from fae_core.config.limits import MOST_COLUMNS


def reconstruct(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            callback=decoder_there,
            help="Run folder, model folder, bundle or hub id of an FAE or another tokenizer.",
        ),
    ],
    data: Data,
    out: NewOut,
    split: Split = None,
    survey: Survey = None,
    count: Annotated[int, typer.Option("--count", min=1, help="At most so many images, evenly spread.")] = 1000,
    pairs: Annotated[
        int, typer.Option("--pairs", min=1, max=MOST_COLUMNS, help="Pairs in the side-by-side picture.")
    ] = 16,
    files: Annotated[
        bool, typer.Option("--files/--no-files", help="Also write every reconstruction to OUT/images.")
    ] = False,
    extractor: Annotated[
        str | None,
        typer.Option("--extractor", help="Also SSIM and the Frechet distance by these features (needs fae-eval)."),
    ] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="Local weights of the extractor.")] = None,
    lpips: Annotated[bool, typer.Option("--lpips", help="Also LPIPS (needs fae-eval[perceptual]).")] = False,
    batch_size: BatchSize = 32,
    overwrite: Overwrite = False,
    device: Device = None,
) -> None:
    """Reconstruct images: OUT/pairs.png (originals above reconstructions) and results/reconstruction.json.

    --files writes OUT/images/*.png, too.

    --extractor inception gives rFID; efficientnet-lite2 needs no download. `fae eval generation --help` has the names.

    Example: fae reconstruct --model runs/fae --data IMAGES --out runs/reconstruction
    """
    from fae_core.commands.running import command_line
    from fae_core.errors import FAEError
    from fae_core.files import require_new_folder, staged_folder
    from fae_core.images import open_surveyed, readable_images
    from fae_core.images.spread import evenly_spread
    from fae_core.images.tell import log_on_first_process
    from fae_core.machine import available_threads
    from fae_core.progress import progress

    if weights is not None and extractor is None:
        raise FAEError("--weights are those of an --extractor, which is not given")
    path_there(weights)
    _require_extractor(extractor)
    require_new_folder(out, overwrite=overwrite)
    source = evenly_spread(open_surveyed(data, split, survey), count)
    if survey is None:
        with progress(len(source), "trying the images", brief=True) as bar:
            source = source.select(
                readable_images(
                    source, log_on_first_process, threads=available_threads(), progress=lambda _: bar.advance()
                )
            )
    from fae_core.models.load import load_tokenizer
    from fae_core.processes import resolve_device
    from fae_decoders.reconstruction import Reconstruction

    study = _study(extractor, weights, lpips) if extractor is not None or lpips else None
    device = resolve_device(device)
    tokenizer = load_tokenizer(model, device=device)
    with staged_folder(out, overwrite=overwrite) as staging:
        job = Reconstruction(tokenizer, source, batch_size, device)
        record = job.run(staging, pairs=pairs, files=files, facts={"model": model, "data": data}, study=study)
    for name, value in record["table"]["rows"]:
        say(f"{name:<28}{value:.4g}")
    say(f"wrote {out}/pairs.png and {out}/results/reconstruction.json; next: {command_line('eval report', out)}")


def _require_extractor(name: str | None) -> None:
    """Raise UnknownName where fae-eval has no such extractor."""
    from fae_core.plugins import load_plugins

    check = load_plugins("fae.studies").get("reconstruction.extractor")
    if name is not None and check is not None:
        check.load()(name)


def _study(extractor: str | None, weights: Path | None, lpips: bool) -> Callable[..., Any]:
    """What measures with other networks. Raises MissingPackage where fae-eval is not installed."""
    from functools import partial

    from fae_core.errors import MissingPackage
    from fae_core.plugins import load_plugins

    found = load_plugins("fae.studies").get("reconstruction")
    if found is None:
        raise MissingPackage("--extractor and --lpips", "fae-eval")
    return partial(found.load(), extractor=extractor, weights=weights, lpips=lpips)
