"""`fae eval coco`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fae_core.cli.options import Overwrite, Seed, path_there
from fae_core.commands.output import say
from fae_core.commands.running import command_line
from fae_core.config.limits import LARGEST_SIDE, MOST_IMAGES


class ReferenceImages(StrEnum):
    """Which images samples are compared with."""

    SAME = "same"
    VAL2014 = "val2014"
    BOTH = "both"


def coco(
    annotations: Annotated[Path, typer.Option("--annotations", callback=path_there, help="captions_val2014.json.")],
    images: Annotated[Path, typer.Option("--images", callback=path_there, help="Folder val2014.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for prompts.jsonl and the references.")],
    count: Annotated[int, typer.Option("--count", min=1, max=MOST_IMAGES, help="Images, one caption each.")] = 30_000,
    size: Annotated[int, typer.Option("--size", min=8, max=LARGEST_SIDE, help="Side of the reference images.")] = 256,
    seed: Seed = 0,
    reference: Annotated[
        ReferenceImages,
        typer.Option(
            "--reference",
            help="same: reference.npz, the images whose captions are drawn. val2014: reference-val2014.npz, all 40,504 "
            "images, the split of U-ViT's captions. both: both.",
        ),
    ] = ReferenceImages.SAME,
    overwrite: Overwrite = False,
) -> None:
    """Prepare the text-to-image protocol: 30,000 captions of COCO val2014, and the images to compare samples with.

    The paper follows U-ViT's protocol and does not name its reference. U-ViT compares with a file of statistics over
    its own set, fid_stats_mscoco256_val.npz, which fae eval generation --reference takes, too. Distances to different
    references do not compare: records name theirs.

    Example: fae eval coco --annotations captions_val2014.json --images val2014 --out coco
    """
    from fae_core.files import hold, require_new_folder
    from fae_core.progress import progress
    from fae_eval.data.coco import write_coco

    require_new_folder(out, overwrite=overwrite)
    with hold(out):
        written = write_coco(
            annotations, images, out, count=count, size=size, seed=seed, reference=reference.value, progress=progress
        )
    following = command_line(
        "eval generation",
        generator="RUN",
        decoder="TOKENIZER",
        prompts=written[0],
        count=count,
        reference=written[1],
        metrics="fid",
        extractor="inception",
    )
    say(f"wrote {', '.join(map(str, written))}; next: {following}")
