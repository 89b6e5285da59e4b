"""`fae eval generation | frechet | reconstruction | pack`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fae_core.cli.option_objects import spread
from fae_core.cli.options import (
    BatchSize,
    Data,
    Device,
    Overwrite,
    Processes,
    Survey,
    generator_there,
    images_there,
)
from fae_core.commands.output import say
from fae_core.commands.running import command_line
from fae_core.config.limits import MOST_IMAGES
from fae_eval.cli.options import (
    Also,
    Decoder,
    DrawingSeed,
    Extractor,
    Guidance,
    Limit,
    Measurement,
    ResultFile,
    Size,
    Tokenizer,
    Weights,
    check_latents,
    finish,
    require_used,
    result_path,
)

_FILES = re.compile(r"\.(npz|parquet|tar)(\[[^]]*\])?$")  # how files of images end, perhaps with a slice


def named_samples(samples: list[str]) -> dict[str, str]:
    """Name -> path of arguments NAME=PATH or PATH; the name is then the last part, without .npz or .parquet.

    Equal names get numbers.
    """
    named: dict[str, str] = {}
    for given in samples:
        name, equals, path = given.partition("=")
        if not equals or "/" in name or Path(given).exists():
            path, name = given, _FILES.sub("", Path(given).resolve().name)
        base, number = name, 2
        while name in named:
            name, number = f"{base} {number}", number + 1
        named[name] = path
    return named


def _each_there(check: Callable[[str], Any]) -> Callable[[list[str] | None], list[str] | None]:
    """A check of PATH or NAME=PATH arguments, from one of a path."""

    def checked(given: list[str] | None) -> list[str] | None:
        for path in named_samples(given or []).values():
            check(path)
        return given

    return checked


SamplePaths = Annotated[
    list[str] | None,
    typer.Option(
        "--samples",
        callback=_each_there(images_there),
        help="PATH or NAME=PATH: image folder, .npz, folder of `fae sample`, latent store. Repeatable.",
    ),
]


Floor = Annotated[
    str | None,
    typer.Option(
        "--floor",
        callback=images_there,
        help="More real images, disjoint from the reference, of which as many are taken as there are samples: the "
        "real-vs-real row and FDr.",
    ),
]
Generators = Annotated[
    list[str] | None,
    typer.Option(
        "--generator",
        callback=_each_there(generator_there),
        help="PATH or NAME=PATH of a generator to draw --count samples from, as `fae sample` would; nothing is "
        "written. Repeatable.",
    ),
]
NOT_STATED = "not stated"


@spread
def generation(
    options: Measurement,
    samples: SamplePaths = None,
    generator: Generators = None,
    count: Annotated[
        int | None,
        typer.Option("--count", min=1, max=MOST_IMAGES, help="With a generator: how many images; default: 50,000."),
    ] = None,
    guidance: Guidance = None,
    floor: Floor = None,
    also: Also = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics", help="Of fid, sfid, is, pr, dc, kid, by commas. Default: ADM's with inception, else fid,pr."
        ),
    ] = None,
    decoder: Decoder = None,
    label_sampling: Annotated[
        str, typer.Option("--label-sampling", help="How classes were drawn; recorded.")
    ] = NOT_STATED,
    pr_precision: Annotated[
        Literal["fp32", "adm"],
        typer.Option("--pr-precision", help="Distances of precision and recall: fp32 or adm (fp16)."),
    ] = "fp32",
    seed: DrawingSeed = None,
) -> None:
    """Samples against real images: Frechet distance, precision, recall, and with inception ADM's five.

    Samples are images on disk (--samples), or come from a generator as they are measured (--generator and --decoder).

    Example: fae eval generation --samples runs/demo/samples-flow --reference runs/demo/data/train
    --floor runs/demo/data/held-out --out runs/demo/results
    """
    from fae_core.cli.launch import relaunched
    from fae_core.errors import FAEError
    from fae_eval.studies.metric_names import full_names

    path = result_path(options.out, "generation", options.overwrite)
    sets: dict[str, Any] = named_samples(samples or [])
    generators = named_samples(generator or [])
    if not sets and not generators:
        raise FAEError("give --samples (images), or --generator and --decoder (a model to draw from)")
    if generators and decoder is None:
        raise FAEError("--generator needs --decoder, a tokenizer that turns its latents into images")
    chosen = full_names([name.strip() for name in metrics.split(",") if name.strip()]) if metrics else None
    options.require_drawing(bool(generators), count=count, guidance=guidance)
    require_used(bool(generators) or "kernel" in (chosen or ()), "is for --generator, or for --metrics kid", seed=seed)
    options.check_places(decoder, floor, *sets.values())
    count = count or 50_000
    texts = options.check_drawing(
        generators.values(), decoder or "", count, {} if guidance is None else {"guidance": guidance}
    )
    if relaunched(options.processes):
        return
    from fae_core.processes import processes as process_group
    from fae_eval.data import GeneratedSamples
    from fae_eval.studies.generation import evaluate
    from fae_eval.tokenizers import load_image_tokenizer

    drawn = {"count": count, "labels": options.drawn_labels, "prompts": texts, "guidance": guidance}
    drawn["seed"] = seed or 0  # of `fae sample`, which then draws the same images
    with process_group(options.device) as group:
        tokenizer = load_image_tokenizer(decoder, group.device, needs_decode=True) if decoder else None
        for name, source in generators.items():
            sets[f"{name} (drawn)" if name in sets else name] = GeneratedSamples(source, tokenizer, **drawn)
        result = evaluate(
            sets,
            options.reference,
            decoder=tokenizer,
            floor=floor,
            also=also or (),
            metrics=chosen or None,
            label_sampling=options.drawn_labels
            if generator and not samples and label_sampling == NOT_STATED
            else label_sampling,
            pr_precision=pr_precision,
            **({} if seed is None else {"seed": seed}),
            **options.how,
        )
        if group.is_main:
            finish(result, path)


def frechet(**options: Any) -> None:
    """Only the Frechet distance of samples to real images; called FID only with inception's published weights.

    The same as fae eval generation --metrics fid.

    Example: fae eval frechet --samples out.npz --reference VIRTUAL_imagenet256_labeled.npz --extractor inception
    """
    out = result_path(options.pop("out", None), "frechet", options.get("overwrite", False))
    generation(**options, metrics="fid", out=out)


# typer reads the options from these two: those of `generation` that one distance needs.
_NOT_OF_ONE_DISTANCE = ("metrics", "pr_precision")
_OPTIONS = {
    name: one for name, one in inspect.signature(generation).parameters.items() if name not in _NOT_OF_ONE_DISTANCE
}
frechet.__dict__["__signature__"] = inspect.Signature(list(_OPTIONS.values()), return_annotation=None)
frechet.__annotations__ = {name: one.annotation for name, one in _OPTIONS.items()}


def reconstruction(
    tokenizer: Tokenizer,
    images: Data,
    extractor: Extractor = "efficientnet-lite2",
    weights: Weights = None,
    no_frechet: Annotated[
        bool, typer.Option("--no-frechet", help="Leave the Frechet distance out: no extractor is needed.")
    ] = False,
    lpips: Annotated[
        bool, typer.Option("--lpips", help="Also LPIPS (needs fae-eval[perceptual] and torchvision's weights).")
    ] = False,
    survey: Survey = None,
    limit: Limit = None,
    batch_size: BatchSize = 32,
    device: Device = None,
    processes: Processes = 1,
    title: Annotated[str, typer.Option("--title", help="Heading of the record.")] = "Reconstructions",
    out: ResultFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Earlier name of `fae reconstruct --extractor`: PSNR, SSIM, LPIPS, features, Frechet distance.

    Example: fae eval reconstruction --model runs/demo/tokenizer --data runs/demo/data/held-out --out runs/demo/results
    """
    from fae_core.cli.launch import relaunched
    from fae_core.images import open_surveyed, readable_images
    from fae_core.images.spread import evenly_spread
    from fae_core.images.tell import log_on_first_process
    from fae_core.progress import progress

    path = result_path(out, "reconstruction", overwrite, ".png")
    if relaunched(processes):
        return
    source = evenly_spread(open_surveyed(images, report=survey), limit)
    if survey is None:
        source = source.select(readable_images(source, log_on_first_process))
    from fae_core.processes import processes as process_group
    from fae_eval.studies.reconstruction import evaluate_reconstruction

    with process_group(device) as group:
        result = evaluate_reconstruction(
            tokenizer,
            source,
            extractor=None if no_frechet else extractor,
            weights=weights,
            lpips=lpips,
            batch_size=batch_size,
            device=device,
            picture=path and path.with_suffix(".png"),
            title=title,
            progress=progress,
        )
        if group.is_main:
            finish(result, path)


def pack(
    samples: Annotated[
        str,
        typer.Option(
            "--samples", callback=images_there, help="Image folder, .parquet, folder of `fae sample`, or latent store."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help=".npz file to write.")],
    decoder: Decoder = None,
    size: Size = None,
    limit: Limit = None,
    overwrite: Overwrite = False,
) -> None:
    """Write images as ADM's .npz (arr_0 uint8, arr_1 labels), for other evaluators.

    Example: fae eval pack --samples runs/samples --out samples.npz
    """
    from fae_core.errors import DataError, FAEError
    from fae_core.files import claim_file
    from fae_core.progress import progress

    if out.suffix != ".npz":
        raise FAEError(f"--out {out} must end in .npz")
    claim_file(out, overwrite=overwrite)
    check_latents([samples], decoder)
    from fae_eval.data import open_samples, write_adm
    from fae_eval.tokenizers import load_image_tokenizer

    tokenizer = load_image_tokenizer(decoder, needs_decode=True) if decoder is not None else None
    opened = open_samples(samples, size=size, limit=limit, decoder=tokenizer)
    with progress(len(opened), "packing") as bar:

        def counted() -> Any:
            for batch in opened.batches(64):
                if opened.skipped:
                    raise DataError(f"{opened.skipped[0]} cannot be read; a sample file must be complete")
                bar.advance(len(batch))
                yield batch

        write_adm(out, counted(), len(opened), opened.labels, classes=opened.classes)
    following = command_line("eval generation", samples=out, reference="IMAGES")
    say(f"wrote {len(opened)} images to {out}; next: {following}")
