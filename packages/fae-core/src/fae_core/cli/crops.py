"""`fae crops`: a labelled folder of random crops out of a few large images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fae_core.cli.options import Overwrite, Seed, images_there
from fae_core.commands.output import say
from fae_core.config.limits import LARGEST_SIDE, MOST_IMAGES
from fae_core.folders import HELD_OUT, TRAIN


def crops(
    source: Annotated[
        str, typer.Argument(callback=images_there, help='Image folder, .parquet, .npz, or "photographs".')
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write: train/ and held-out/, one subfolder per class.")],
    count: Annotated[
        int, typer.Option(help="Training crops in all; classes get equal shares.", min=1, max=MOST_IMAGES)
    ] = 1024,
    size: Annotated[int, typer.Option(help="Side of a crop in pixels, after resizing.", min=1, max=LARGEST_SIDE)] = 128,
    scale: Annotated[str, typer.Option(help="Side of a crop as a fraction of the short side: low,high.")] = "0.8,1.0",
    center: Annotated[
        float, typer.Option(help="Middle part of the free range that offsets come from.", min=0, max=1)
    ] = 0.6,
    jitter: Annotated[
        float, typer.Option(help="Change of brightness, contrast and saturation; 0.05 is 5 %.", min=0, max=1)
    ] = 0.0,
    held_out: Annotated[
        int, typer.Option(help="Crops to keep apart, none of them a training crop.", min=0, max=MOST_IMAGES)
    ] = 0,
    class_per_image: Annotated[bool, typer.Option(help="Make every image a class of its own.")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Cut random crops out of a few large images and write them as a labelled image folder.

    Example: fae crops photographs --out runs/crops --count 1024 --held-out 256 --size 128 --jitter 0.05
    """
    from fae_core.cli.defaults import preset_words
    from fae_core.commands.running import command_line
    from fae_core.files import require_new_folder
    from fae_core.images.open import open_images
    from fae_core.progress import progress

    bounds = _pair(scale)
    require_new_folder(out, overwrite=overwrite)
    from fae_core.images.crops import CropSettings, write_crops

    settings = CropSettings(size=size, scale=bounds, center=center, jitter=jitter, seed=seed)
    write_crops(
        open_images(source),
        out,
        settings,
        count=count,
        held_out=held_out,
        class_per_image=class_per_image,
        overwrite=overwrite,
        log=lambda line: typer.echo(line, err=True),
        progress=progress,
    )
    held = f" and {held_out} to {out / HELD_OUT}" if held_out else ""
    say(f"wrote {count} crops of {size}x{size} to {out / TRAIN}{held}")
    preset, remark = preset_words("feature-decoder", {"images": (size, size)}, "feature-decoder-demo")
    following = command_line("train autoencoder", data=out / TRAIN, preset=preset, out="runs/autoencoder")
    say(f"next: {following}{remark}")


def _pair(text: str) -> tuple[float, float]:
    from fae_core.errors import DataError

    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise DataError(f"--scale takes two numbers such as 0.8,1.0, not {text!r}") from None
    return low, high
