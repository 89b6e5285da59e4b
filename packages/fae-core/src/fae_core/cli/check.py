"""`fae check`: a survey of a set of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fae_core.cli.defaults import preset_words
from fae_core.cli.options import Overwrite, images_there
from fae_core.commands.output import document, say
from fae_core.commands.running import command_line
from fae_core.config.limits import LARGEST_SIDE, MOST_PROCESSES

_SHOWN = 5


def check(
    data: Annotated[
        str, typer.Argument(callback=images_there, help="Image folder, .parquet, .tar, .npz or pattern of shards.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Report to write (JSON).")],
    split: Annotated[str | None, typer.Option("--split", help="Part of the data, such as train.")] = None,
    size: Annotated[
        int, typer.Option("--size", min=1, max=LARGEST_SIDE, help="Shorter side below which images are named as small.")
    ] = 256,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, max=MOST_PROCESSES, help="Images decoded at a time; default: all cores."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Decode every image and report what is broken, small, in another mode than RGB, or there twice; classes and sizes.

    Training, `fae encode` and `fae eval` take the report as --survey: broken images are left out from the start, and
    the content of the images is known without reading them. An interrupted check continues when it is called again.

    Example: fae check IMAGES --out survey.json
    """
    from fae_core.errors import FAEError
    from fae_core.files import claim_file
    from fae_core.images import open_images
    from fae_core.images.survey import survey

    if out.suffix != ".json":
        raise FAEError(f"--out {out} must end in .json")
    claim_file(out, overwrite=overwrite)
    report = survey(open_images(data, split), out, data=data, side=size, threads=threads)
    document(report)
    for line in _summary(report):
        say(line)
    middle = tuple(report["sizes"][side]["median"] for side in ("height", "width"))
    preset, remark = preset_words("feature-decoder", {"images": middle}, "feature-decoder-demo")
    following = command_line("train autoencoder", data=data, survey=out, preset=preset, out="runs/autoencoder")
    say(f"wrote {out}; next: {following}{remark}")


def _summary(report: dict[str, Any]) -> list[str]:
    """What a report says, in a few lines."""
    broken, small, twice = report["broken"], report["small"], report["duplicates"]
    sizes, classes = report["sizes"], report["classes"]
    width, height = sizes["width"], sizes["height"]
    lines = [
        f"{report['images']} images, {report['bytes'] / 1e6:,.1f} MB; {len(broken)} cannot be read",
        *(f"  {one['reason']}" for one in broken[:_SHOWN]),
        f"modes: {', '.join(f'{mode} {count}' for mode, count in report['modes'].items())}",
        f"width {width['least']} to {width['largest']}, median {width['median']}; "
        f"height {height['least']} to {height['largest']}, median {height['median']}",
        f"{small['images']} have a side below {small['side']} pixels; {twice['images']} repeat another's content",
    ]
    if classes:
        counts = sorted(classes.values())
        lines.append(f"{len(classes)} classes of {counts[0]} to {counts[-1]} images")
    return lines
