"""`fae sample`: images from any generator, decoded by any decoder of its latent space."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fae_core.cli.options import BatchSize, Device, Out, Overwrite, Processes, Resume, Seed, SetSampling, path_there
from fae_core.commands.output import document, say
from fae_core.config.limits import LARGEST_SCALE, MOST_COLUMNS, MOST_IMAGES


def sample(
    out: Out,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Both in one: a bundle's name (`fae presets bundle`), its folder or hub id."),
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option("--generator", help="Run folder, checkpoint, model folder or hub id of a generator."),
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option("--decoder", help="Run folder, model folder or hub id of a tokenizer that decodes."),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, max=MOST_IMAGES, help="How many images.")] = 64,
    labels: Annotated[
        str,
        typer.Option(
            "--labels", help="'equal', 'random', or classes in turn: 0,3,7, or cat,dog where they have names."
        ),
    ] = "equal",
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            callback=path_there,
            help="For a generator of text: text file, one prompt per line, or .jsonl with captions.",
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance",
            help="Guidance scale, 1 is off; default: the generator's own, and so is all else of guidance that no --set "
            "changes.",
        ),
    ] = None,
    sampling: Annotated[
        str | None,
        typer.Option(
            "--sampling",
            help="Settings by name, for SiT to MMDiT: paper-guided, paper-unguided (appendix D), fast; those of the "
            "originals: sit, sit-ode, lightningdit, lightningdit-64ep, repa, rae, rae-autoguidance, sd3, sd3.5-medium.",
        ),
    ] = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    overrides: SetSampling = None,
    npz: Annotated[bool, typer.Option("--npz/--no-npz", help="Also write samples.npz in ADM's layout.")] = True,
    columns: Annotated[
        int | None,
        typer.Option(
            "--columns",
            min=1,
            max=MOST_COLUMNS,
            help="Images per row of grid.png. Default: one per class, up to 20; or 8.",
        ),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            "--scale",
            min=1,
            max=LARGEST_SCALE,
            help="How many times its size a picture is drawn in grid.png. Default: enough for class names, or 1.",
        ),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    device: Device = None,
    processes: Processes = 1,
) -> None:
    """Sample images: OUT/images/*.png, samples.npz, grid.png, samples.json. --set passes the generator's own options.

    Sample i is the same whatever the batch size and the number of processes: its noise is drawn from (seed, i).

    Example: fae sample --generator runs/dit --decoder runs/tokenizer --out runs/samples --count 64 --guidance 1.5
    """
    from fae_core.cli.launch import relaunched
    from fae_core.cli.settings import parse_overrides
    from fae_core.commands.running import is_first_process
    from fae_core.errors import FAEError
    from fae_core.files import read_json, require_new_folder
    from fae_core.folders import SAMPLES_RECORD
    from fae_core.models.sample_options import with_guidance
    from fae_core.models.sources import find_bundle
    from fae_core.sampling.beforehand import check_drawing, job_settings, require_same_job
    from fae_core.sampling.prompts import read_prompts

    if model is not None and generator is None and decoder is None:
        find_bundle(model)
        generator = decoder = model
    elif model is not None or generator is None or decoder is None:
        raise FAEError("give either --model BUNDLE, or --generator and --decoder")
    options = ({} if sampling is None else {"sampling": sampling}) | parse_overrides(overrides)
    texts = read_prompts(prompts) if prompts is not None else ()
    all_options = with_guidance(guidance, options)
    drawn = check_drawing(generator, decoder, labels=labels, prompts=texts, options=all_options)
    if is_first_process():
        require_new_folder(out, overwrite=overwrite, resume=resume, kind="samples", resumable=SAMPLES_RECORD)
        if resume and drawn is not None:  # else it is compared once it is loaded
            own = {"labels": labels, "guidance": guidance, "seed": seed, "options": options, "prompts": texts}
            require_same_job(out, job_settings({"count": count, **own}), drawn.point.name)
    if relaunched(processes):
        return
    from fae_core.sampling.job import SampleJob

    job = SampleJob(
        generator, decoder, out, count, labels, guidance, seed, batch_size, options, columns, npz, texts, scale
    )
    report = job.run(resume=resume, overwrite=overwrite, device=device)
    if report is not None:
        document({"out": out, **read_json(out / SAMPLES_RECORD)})
        say(report)
