"""`fae eval convergence`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fae_core.cli.options import BatchSize, Device, Overwrite, Processes, Seed
from fae_core.config.limits import MOST_IMAGES
from fae_eval.cli.measure import Cache, Decoder, Floor, Reference, Size
from fae_eval.cli.options import (
    Extractor,
    Guidance,
    Labels,
    Limit,
    Prompts,
    ResultFile,
    Title,
    Weights,
    finish,
    result_path,
)


def convergence(
    reference: Reference,
    generator: Annotated[
        Path | None,
        typer.Option(
            "--generator", help="Run folder: its checkpoints are sampled, and its metrics.jsonl gives the seconds."
        ),
    ] = None,
    decoder: Decoder = None,
    count: Annotated[int, typer.Option("--count", min=1, max=MOST_IMAGES, help="Samples of each checkpoint.")] = 5_000,
    labels: Labels = "equal",
    prompts: Prompts = None,
    guidance: Guidance = None,
    samples: Annotated[
        list[str] | None,
        typer.Option(
            "--samples", help="STEP=PATH of samples that are there already, instead of checkpoints. Repeatable."
        ),
    ] = None,
    floor: Floor = None,
    extractor: Extractor = "efficientnet-lite2",
    weights: Weights = None,
    size: Size = None,
    limit: Limit = None,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    device: Device = None,
    processes: Processes = 1,
    cache: Cache = True,
    title: Title = None,
    out: ResultFile = None,
    overwrite: Overwrite = False,
) -> None:
    """The Frechet distance over training: samples of every checkpoint of a run against real images.

    The report draws the curve. A run keeps as many checkpoints as training.keep_checkpoints says. Only the record is
    written.

    Example: fae eval convergence --generator runs/dit --decoder runs/tokenizer --reference data/train
    --out runs/results
    """
    from fae_core.cli.launch import relaunched
    from fae_core.errors import FAEError
    from fae_core.processes import processes as process_group
    from fae_core.progress import progress
    from fae_core.sampling.prompts import read_prompts
    from fae_eval.features import default_cache
    from fae_eval.studies.convergence import checkpoint_samples, evaluate_convergence

    path = result_path(out, "convergence", overwrite)
    if not samples and (generator is None or decoder is None):
        raise FAEError("give --generator and --decoder (checkpoints to sample), or --samples STEP=PATH")
    given = steps_of(samples or [])
    texts = read_prompts(prompts) if prompts is not None else ()
    if relaunched(processes):
        return
    with process_group(device) as group:
        sets: Mapping[int, Any] = given
        if not sets:
            assert generator is not None
            drawn = {"labels": labels, "prompts": texts, "guidance": guidance, "seed": seed, "device": group.device}
            sets = checkpoint_samples(generator, decoder, count, **drawn)
        result = evaluate_convergence(
            sets,
            reference,
            run=generator,
            title=title,
            floor=floor,
            extractor=extractor,
            weights=weights,
            size=size,
            limit=limit,
            label_sampling="not stated" if given else labels,
            batch_size=batch_size,
            device=device,
            cache=default_cache() if cache else None,
            progress=progress,
        )
        if group.is_main:
            finish(result, path)


def steps_of(samples: list[str]) -> dict[int, str]:
    """Step -> path of arguments STEP=PATH. Raises FAEError for another form, and where a step comes twice."""
    from fae_core.errors import FAEError

    found: dict[int, str] = {}
    for given in samples:
        step, equals, path = given.partition("=")
        if not equals or not step.isdecimal() or len(step) > 15 or int(step) in found:
            raise FAEError(f"--samples takes STEP=PATH, each step once, not {given!r}")
        found[int(step)] = path
    return found
