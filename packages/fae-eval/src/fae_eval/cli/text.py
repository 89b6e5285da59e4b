"""`fae eval clip-score | retrieval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fae_core.cli.options import BatchSize, Data, Device, Overwrite, Survey, images_there, path_there, tokenizer_there
from fae_eval.cli.options import Decoder, Limit, ResultFile, Title, check_latents, finish, require_used, result_path

TextModel = Annotated[
    str,
    typer.Option("--text-model", help="CLIP, SigLIP or SigLIP2 model: local folder or hub id (needs fae-eval[text])."),
]


def clip_score(
    samples: Annotated[
        str,
        typer.Option(
            "--samples", callback=images_there, help="Image folder, .npz, folder of `fae sample`, or latent store."
        ),
    ],
    text_model: TextModel,
    decoder: Decoder = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            callback=path_there,
            help="One prompt per image: text file or .jsonl. Default: those of `fae sample --prompts`.",
        ),
    ] = None,
    survey: Survey = None,
    batch_size: BatchSize = 32,
    device: Device = None,
    title: Title = None,
    out: ResultFile = None,
    overwrite: Overwrite = False,
) -> None:
    """How well samples fit their prompts: 100 * mean of max(cosine, 0).

    Example: fae eval clip-score --samples runs/samples --text-model openai/clip-vit-large-patch14
    """
    from fae_core.latent_store.facts import StoreFacts
    from fae_core.models.stored import stored_spec
    from fae_core.progress import progress
    from fae_eval.data.captions import prompts_of
    from fae_eval.data.files import open_image_files

    path = result_path(out, "clip-score", overwrite)
    check_latents([samples], decoder)
    latents = stored_spec(Path(samples)) is not None
    require_used(latents, "decodes latents, and --samples are images", decoder=decoder)
    require_used(not latents, "is about images in files", survey=survey)
    source = None if latents else open_image_files(samples, survey)
    read = prompts_of(samples, len(StoreFacts(samples) if source is None else source), prompts)
    from fae_eval.studies.text_image import evaluate_clip_score

    options: dict[str, Any] = {"batch_size": batch_size, "device": device, "title": title, "progress": progress}
    images = samples if source is None else source
    finish(evaluate_clip_score(images, text_model, prompts=read, decoder=decoder, **options), path)


def retrieval(
    images: Data,
    captions: Annotated[
        Path,
        typer.Option(
            "--captions",
            callback=path_there,
            help="COCO's captions_*.json, or .jsonl with image and caption per line.",
        ),
    ],
    text_model: TextModel,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--model",
            callback=tokenizer_there,
            help="Also an FAE on that model's image encoder: its original and rebuilt features.",
        ),
    ] = None,
    survey: Survey = None,
    limit: Limit = None,
    batch_size: BatchSize = 32,
    device: Device = None,
    title: Title = None,
    out: ResultFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Recall at 1, 5 and 10 from image to text and from text to image; with --model through an FAE too.

    Example: fae eval retrieval --data coco-test --captions captions.jsonl --text-model google/siglip2-base-patch16-256
    """
    from fae_core.images.spread import evenly_spread
    from fae_core.progress import progress
    from fae_eval.data.captions import paired_captions
    from fae_eval.data.files import open_image_files

    path = result_path(out, "retrieval", overwrite)
    source = evenly_spread(open_image_files(images, survey), limit)
    paired = paired_captions(source, captions)
    from fae_eval.studies.text_image import evaluate_retrieval

    options: dict[str, Any] = {"batch_size": batch_size, "device": device, "title": title, "progress": progress}
    finish(evaluate_retrieval(source, paired, text_model, tokenizer=tokenizer, **options), path)
