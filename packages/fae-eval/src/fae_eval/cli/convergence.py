"""`fae eval convergence`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fae_core.cli.option_objects import spread
from fae_core.cli.options import images_there, path_there
from fae_core.config.limits import MOST_IMAGES
from fae_eval.cli.measure import Floor
from fae_eval.cli.options import Also, Decoder, DrawingSeed, Guidance, Measurement, finish, result_path


@spread
def convergence(
    options: Measurement,
    generator: Annotated[
        Path | None,
        typer.Option(
            "--generator",
            callback=path_there,
            help="Run folder: its checkpoints are sampled, and its metrics.jsonl gives the seconds.",
        ),
    ] = None,
    decoder: Decoder = None,
    count: Annotated[
        int | None,
        typer.Option("--count", min=1, max=MOST_IMAGES, help="Samples of each checkpoint; default: 5,000."),
    ] = None,
    guidance: Guidance = None,
    samples: Annotated[
        list[str] | None,
        typer.Option(
            "--samples", help="STEP=PATH of samples that are there already, instead of checkpoints. Repeatable."
        ),
    ] = None,
    floor: Floor = None,
    also: Also = None,
    seed: DrawingSeed = None,
) -> None:
    """The Frechet distance over training: samples of every checkpoint of a run against real images.

    The report draws the curve. A run keeps as many checkpoints as training.keep_checkpoints says. Only the record is
    written.

    Example: fae eval convergence --generator runs/dit --decoder runs/tokenizer --reference data/train
    --out runs/results
    """
    from fae_core.cli.launch import relaunched
    from fae_core.errors import FAEError
    from fae_core.models.stored import checkpoints_of

    path = result_path(options.out, "convergence", options.overwrite)
    if not samples and (generator is None or decoder is None):
        raise FAEError("give --generator and --decoder (checkpoints to sample), or --samples STEP=PATH")
    given = steps_of(samples or [])
    options.require_drawing(not given, count=count, guidance=guidance, seed=seed)
    count = count or 5_000
    for place in given.values():
        images_there(place)
    options.check_places(decoder, floor, *given.values())
    texts: tuple[str, ...] = ()
    if not given:
        assert generator is not None and decoder is not None
        newest = [*checkpoints_of(generator).values()][-1]
        texts = options.check_drawing([newest], decoder, count, {} if guidance is None else {"guidance": guidance})
    if relaunched(options.processes):
        return
    from fae_core.processes import processes as process_group
    from fae_eval.studies.convergence import checkpoint_samples, evaluate_convergence
    from fae_eval.tokenizers import load_image_tokenizer

    with process_group(options.device) as group:
        tokenizer = load_image_tokenizer(decoder, group.device, needs_decode=True) if decoder is not None else None
        sets: Mapping[int, Any] = given
        if not sets:
            assert generator is not None
            drawn = {"labels": options.drawn_labels, "prompts": texts, "guidance": guidance, "seed": seed or 0}
            sets = checkpoint_samples(generator, tokenizer, count, device=group.device, **drawn)
        result = evaluate_convergence(
            sets,
            options.reference,
            run=generator,
            decoder=tokenizer,
            floor=floor,
            also=also or (),
            label_sampling="not stated" if given else options.drawn_labels,
            **options.how,
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
