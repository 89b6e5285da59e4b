"""`fae eval coco`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fae_core.cli.options import Overwrite, Seed
from fae_core.commands.output import say
from fae_core.config.limits import LARGEST_SIDE, MOST_IMAGES


def coco(
    annotations: Annotated[Path, typer.Option("--annotations", help="captions_val2014.json.")],
    images: Annotated[Path, typer.Option("--images", help="Folder val2014.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for prompts.jsonl and reference.npz.")],
    count: Annotated[int, typer.Option("--count", min=1, max=MOST_IMAGES, help="Images, one caption each.")] = 30_000,
    size: Annotated[int, typer.Option("--size", min=8, max=LARGEST_SIDE, help="Side of the reference images.")] = 256,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Prepare the text-to-image protocol: 30,000 captions of COCO val2014 and their images as the reference.

    Example: fae eval coco --annotations captions_val2014.json --images val2014 --out coco
    """
    from fae_core.files import hold, require_new_folder
    from fae_core.progress import progress
    from fae_eval.data.coco import write_coco

    require_new_folder(out, overwrite=overwrite)
    with hold(out), progress(count, "cropping") as bar:
        written = write_coco(annotations, images, out, count=count, size=size, seed=seed, progress=bar.advance)
    say(
        f"wrote {' and '.join(map(str, written))}; next: fae eval generation --generator RUN --decoder TOKENIZER "
        f"--prompts {written[0]} --count {count} --reference {written[1]} --metrics fid --extractor inception"
    )
