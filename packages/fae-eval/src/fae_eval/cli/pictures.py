"""`fae eval similarity | matching | pca`: pictures of what latents keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import typer

from fae_core.cli.option_objects import spread
from fae_core.cli.options import Data, Device, Overwrite, Seed, Survey
from fae_core.config.limits import MOST_COLUMNS
from fae_eval.cli.options import FeatureTokenizer, PictureFile, finish, result_path

Indices = Annotated[
    str | None, typer.Option("--indices", help="Which images, such as 0,5,9. Default: one of each class.")
]
TwoIndices = Annotated[
    str | None, typer.Option("--indices", help="Two images, such as 0,5. Default: two of the first class.")
]
Count = Annotated[
    int, typer.Option("--count", min=1, max=MOST_COLUMNS, help="How many images, where --indices does not say.")
]


class Scale(StrEnum):
    """Which latents are compared."""

    NORMALISED = "normalised"
    RAW = "raw"


_COMPARED = {
    Scale.NORMALISED: "Latents are normalised per channel, a choice of ours.",
    Scale.RAW: "Latents are compared as the encoder gives them.",
}
LatentScale = Annotated[
    Scale,
    typer.Option(
        "--latent-scale",
        help="Cosine of latents normalised per channel, a choice of ours, or raw, as the encoder gives them.",
    ),
]


@dataclass(frozen=True)
class Picture:
    """What every picture takes. The fields are options; see their help."""

    tokenizer: FeatureTokenizer
    images: Data
    out: PictureFile
    indices: Indices = None
    survey: Survey = None
    device: Device = None
    overwrite: Overwrite = False


@spread
def similarity(
    options: Picture,
    count: Count = 6,
    query: Annotated[
        list[str] | None,
        typer.Option("--query", help="Y,X between 0 and 1 of the query patch; once, or once per image."),
    ] = None,
    latent_scale: LatentScale = Scale.NORMALISED,
) -> None:
    """How similar all patches are to one: in features and in latents side by side.

    Example: fae eval similarity --model runs/demo/tokenizer --data runs/demo/data/held-out --out runs/demo/results
    """

    def draw(model: Any, batch: Any) -> tuple[Any, dict[str, float]]:
        from fae_eval.figures import similarity_picture

        return similarity_picture(model, batch, queries_of(query, len(batch)), latent_scale=latent_scale.value)

    _picture(
        "similarity",
        "Patch similarity",
        "Cosine of every patch with the outlined one, from 0 (dark) to each map's own 98th percentile (bright). "
        + _COMPARED[latent_scale],
        "correlation with the features' map",
        draw,
        options,
        count,
        facts={"latent_scale": latent_scale.value},
        check=lambda found: queries_of(query, found),
    )


class Select(StrEnum):
    """Which patches are matched."""

    RANDOM = "random"
    MUTUAL = "mutual"


_MATCHED = {
    Select.RANDOM: "Foreground patches of the first image (two-means over the features), drawn at random, and the "
    "nearest patch of the second by cosine.",
    Select.MUTUAL: "Foreground patches (two-means over the features) that are each other's nearest by cosine; those of "
    "the highest cosine are drawn. Not the paper's protocol.",
}
_FLATTERS = (
    "patches that are each other's nearest, the surest first, flatter every space; the paper draws patches at random "
    "and matches them one way (appendix F): --select random"
)


@partial(spread, replaced={"indices": TwoIndices})
def matching(
    options: Picture,
    most: Annotated[int, typer.Option("--most", min=1, max=10_000, help="Lines to draw.")] = 16,
    select: Annotated[
        Select,
        typer.Option(
            "--select", help="random: patches at random, as in the paper; mutual: the surest pairs, not the paper's."
        ),
    ] = Select.RANDOM,
    latent_scale: LatentScale = Scale.NORMALISED,
    seed: Seed = 0,
) -> None:
    """Patches of an image and their nearest in another one: by features and by latents.

    As in the paper's appendix F: k-means finds the animal's patches, --most of those in the first image are drawn at
    random, and each is matched with the patch of the second image that has the highest cosine. The paper does not say
    whether its latents are normalised; --latent-scale raw compares them as the encoder gives them.

    Example: fae eval matching --model runs/demo/tokenizer --data photographs --indices 0,1 --out runs/demo/results
    """
    from fae_core.errors import FAEError

    def check(found: int) -> None:
        if found != 2:
            raise FAEError(f"matching needs two images, got {found}")

    def draw(model: Any, batch: Any) -> tuple[Any, dict[str, float]]:
        from fae_eval.figures import matching_picture

        return matching_picture(
            model, batch[0], batch[1], most=most, seed=seed, select=select.value, latent_scale=latent_scale.value
        )

    _picture(
        "matching",
        "Patch matching",
        f"{_MATCHED[select]} {_COMPARED[latent_scale]}",
        "share of the features' matches also found",
        draw,
        options,
        2,
        same_class=True,
        facts={"select": select.value, "seed": seed, "latent_scale": latent_scale.value},
        warnings=[_FLATTERS] if select is Select.MUTUAL else [],
        check=check,
    )


@spread
def pca(options: Picture, count: Count = 6) -> None:
    """The three strongest directions of features and of latents as colours.

    Example: fae eval pca --model runs/demo/tokenizer --data runs/demo/data/held-out --out runs/demo/results
    """

    def draw(model: Any, batch: Any) -> tuple[Any, dict[str, float]]:
        from fae_eval.figures import pca_picture

        return pca_picture(model, batch)

    _picture(
        "pca",
        "Principal components",
        "The three strongest directions as red, green and blue, fitted over all images shown.",
        "share of variance in three components",
        draw,
        options,
        count,
    )


def _picture(
    kind: str,
    title: str,
    caption: str,
    column: str,
    draw: Callable[[Any, Any], tuple[Any, dict[str, float]]],
    options: Picture,
    count: int,
    *,
    same_class: bool = False,
    facts: dict[str, Any] | None = None,
    warnings: Sequence[str] = (),
    check: Callable[[int], object] = lambda count: None,
) -> None:
    """Draw, and write picture and record. `check` is called with the number of images before a model is loaded."""
    path = result_path(options.out, kind, options.overwrite, ".png")
    assert path is not None
    from fae_core.images import open_surveyed

    source = open_surveyed(options.images, report=options.survey)
    chosen = choose_images(source, options.indices, count, same_class=same_class)
    check(len(chosen))
    from fae_core.images import load_batch
    from fae_core.protocols import read_size
    from fae_eval.figures.canvas import save_picture
    from fae_eval.results import Result, provenance
    from fae_eval.tokenizers import device_of, load_image_tokenizer

    model = load_image_tokenizer(options.tokenizer, options.device)
    batch = load_batch(source, chosen, read_size(model))
    picture, values = draw(model, batch.to(device_of(model)))
    save_picture(picture, path.with_suffix(".png"))
    result = Result(
        kind,
        title,
        {"columns": ["", column], "rows": [[name, value] for name, value in values.items()]},
        [{"path": path.with_suffix(".png").name, "caption": caption}],
        warnings=list(warnings),
        values=values,
        provenance=provenance(
            device=device_of(model).type,
            tokenizer=options.tokenizer,
            fingerprint=model.spec.fingerprint or None,
            images=options.images,
            indices=chosen,
            **(facts or {}),
        ),
    )
    finish(result, path)


def choose_images(source: Any, indices: str | None, count: int, *, same_class: bool = False) -> list[int]:
    """Which images of a source to show.

    Args:
        source: the images.
        indices: the option, such as "0,5,9"; None spreads over the classes.
        count: how many without the option.
        same_class: whether to take the first of one class instead.

    Raises:
        FAEError: where the option is no list of indices, or one is too large.
    """
    from fae_core.errors import FAEError

    if indices:
        try:
            chosen = [int(part) for part in indices.split(",")]
        except ValueError:
            raise FAEError(f"--indices takes numbers such as 0,5,9, not {indices!r}") from None
        if min(chosen) < 0 or max(chosen) >= len(source):
            raise FAEError(f"--indices must lie between 0 and {len(source) - 1}")
        return chosen
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(source.labels or [0] * len(source)):
        by_class.setdefault(label, []).append(index)
    groups = [by_class[label] for label in sorted(by_class)]
    if same_class:
        pair = next((group for group in groups if len(group) >= count), list(range(len(source))))
        return pair[:count]
    spread = [group[0] for group in groups]
    if len(spread) >= count:
        return [spread[round(i * (len(spread) - 1) / max(1, count - 1))] for i in range(count)]
    rest = [index for index in range(len(source)) if index not in set(spread)]
    return (spread + rest)[:count]


def queries_of(given: list[str] | None, count: int) -> list[tuple[float, float]] | None:
    """The --query options as (y, x) pairs, one for each of `count` images; None without any.

    Raises:
        FAEError: for another form or number.
    """
    from fae_core.errors import FAEError

    if not given:
        return None
    try:
        pairs: list[tuple[float, ...]] = [tuple(float(part) for part in text.split(",")) for text in given]
    except ValueError:
        pairs = [()]
    if any(len(pair) != 2 or not all(0 <= part <= 1 for part in pair) for pair in pairs):
        raise FAEError("--query takes Y,X between 0 and 1, such as 0.5,0.5")
    pairs = pairs * count if len(pairs) == 1 else pairs
    if len(pairs) != count:
        raise FAEError(f"{count} images need one --query or {count}, got {len(pairs)}")
    return [(pair[0], pair[1]) for pair in pairs]
