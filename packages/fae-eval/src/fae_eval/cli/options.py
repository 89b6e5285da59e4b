"""Options that the commands of `fae eval` share, where their records go, and what they print at the end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fae_core.cli.options import (
    BatchSize,
    Device,
    Overwrite,
    Processes,
    decoder_there,
    images_there,
    path_there,
    tokenizer_there,
)
from fae_core.commands.output import document, say
from fae_core.commands.running import command_line
from fae_core.config.limits import LARGEST_SEED, LARGEST_SIDE, SMALLEST_SEED
from fae_core.errors import FAEError
from fae_core.files import claim_file
from fae_core.folders import RESULTS

if TYPE_CHECKING:
    from fae_eval.results import Result
    from fae_eval.studies.comparison import Group


def _features_there(source: str) -> str:
    """The place of a tokenizer as given, once it is known that it can show features."""
    from fae_core.models.stored import stored_model

    stored = stored_model("tokenizer", source)
    if stored is not None and not stored.has_features:
        raise FAEError(f"{source} ({stored.point.name}) gives latents but no features; give an FAE or an encoder")
    return source


def _known_extractor(name: str) -> str:
    """The name of an extractor as given, once it is known that there can be one."""
    from fae_eval.extractors.registry import parse_name

    parse_name(name)
    return name


def _known_extractors(names: list[str] | None) -> list[str] | None:
    """The same of several names."""
    for name in names or ():
        _known_extractor(name)
    return names


ResultFile = Annotated[
    Path | None, typer.Option("--out", help="Record to write: a .json file, or a folder for it. Default: only printed.")
]
PictureFile = Annotated[Path, typer.Option("--out", help="Folder for the picture and its record.")]
Extractor = Annotated[
    str,
    typer.Option(
        "--extractor",
        callback=_known_extractor,
        help="efficientnet-lite2 or resnet50-thin (both offline), inception (FID), dinov2, or timm/<model>; "
        "@128 after a name = input size.",
    ),
]
Also = Annotated[
    list[str] | None,
    typer.Option(
        "--also",
        callback=_known_extractors,
        help="A further extractor whose Frechet distance is measured on the same images. Repeatable.",
    ),
]
Weights = Annotated[Path | None, typer.Option("--weights", callback=path_there, help="Local weights of the extractor.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use at most so many images, evenly spread.")]
Tokenizer = Annotated[
    str,
    typer.Option(
        "--model", callback=tokenizer_there, help="Run folder, model folder or hub id of a tokenizer (an FAE)."
    ),
]
FeatureTokenizer = Annotated[
    str,
    typer.Option(
        "--model",
        callback=_features_there,
        help="Run folder, model folder or hub id of a tokenizer with features (an FAE).",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        help="With a generator: 'equal' (default), 'random', or classes in turn by index (0,3,7) or name (cat,dog).",
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        callback=path_there,
        help="With a generator of text: text file, one prompt per line, or .jsonl with captions.",
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option("--guidance", help="With a generator: guidance scale, 1 is off; default: its own."),
]
DrawingSeed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=SMALLEST_SEED,
        max=LARGEST_SEED,
        help="With a generator: of noise and random labels, default 0, as in fae sample; also of kid's subsets.",
    ),
]
Title = Annotated[str | None, typer.Option("--title", help="Heading of the record.")]


Reference = Annotated[
    str, typer.Option("--reference", help="Real images: folder, .parquet, or ADM's .npz (its statistics are used).")
]
ReferenceSurvey = Annotated[
    Path | None,
    typer.Option(
        "--survey",
        callback=path_there,
        help="Report of `fae check` on the reference's images: broken ones are left out from the start.",
    ),
]
Decoder = Annotated[
    str | None,
    typer.Option(
        "--decoder", callback=decoder_there, help="Tokenizer that decodes a generator's latents or a latent store's."
    ),
]
Size = Annotated[
    int | None,
    typer.Option("--size", min=8, max=LARGEST_SIDE, help="Centre-crop all images to this side; default: as they are."),
]
Cache = Annotated[bool, typer.Option("--cache/--no-cache", help="Keep the reference's features for the next time.")]


@dataclass(frozen=True)
class Measurement:
    """What the commands take that compare sets of images with a reference. The fields are options; see their help."""

    reference: Reference
    survey: ReferenceSurvey = None
    labels: Labels = None
    prompts: Prompts = None
    extractor: Extractor = "efficientnet-lite2"
    weights: Weights = None
    size: Size = None
    limit: Limit = None
    batch_size: BatchSize = 32
    device: Device = None
    processes: Processes = 1
    cache: Cache = True
    title: Title = None
    out: ResultFile = None
    overwrite: Overwrite = False

    def check_places(self, decoder: str | None, *others: str | None) -> None:
        """Check that there is a reference, and a decoder for what holds latents; once settings are known to be right.

        Args:
            decoder: where the tokenizer is; None for none.
            *others: paths of the other sets of images; None for one that is not given.

        Raises:
            FAEError: one is missing, or the decoder is for other latents.
        """
        images_there(self.reference)
        check_latents([self.reference, *others], decoder)

    @property
    def drawn_labels(self) -> str:
        """Classes of what is drawn."""
        return "equal" if self.labels is None else self.labels

    def require_drawing(self, drawn: bool, **more: Any) -> None:
        """Raise FAEError where nothing is drawn and an option says how.

        Args:
            drawn: whether samples are drawn.
            **more: options of the command itself by name, None where they are not given.
        """
        given = {"labels": self.labels, "prompts": self.prompts, **more}
        require_used(drawn, "is for samples that a generator draws; --samples are as they are", **given)

    def check_drawing(
        self, generators: Iterable[str | Path], decoder: str | Path, count: int, *points: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """The prompts, after a check of what samples are asked for, by files alone (see `check_drawing` in fae-core).

        Args:
            generators: where they are.
            decoder: where the tokenizer is.
            count: how many images are drawn at most.
            points: each the options of `sample` at which something is measured.
        """
        from fae_core.models.sample_options import check_early
        from fae_core.sampling.beforehand import check_drawing
        from fae_core.sampling.prompts import read_prompts

        texts = read_prompts(self.prompts) if self.prompts is not None else ()
        for generator in generators:
            if self.limit is not None and self.limit < count:  # would leave out images of the reference alone
                raise FAEError(f"--limit {self.limit} is below --count {count}; what is drawn is limited by --count")
            stored = check_drawing(generator, decoder, labels=self.drawn_labels, prompts=texts)
            if stored is None:
                continue
            for options in points:
                check_early(stored.point.name, options, stored)
        return texts

    @property
    def how(self) -> dict[str, Any]:
        """Arguments of `fae_eval.studies.generation.evaluate`: all but what is compared, and by which metrics."""
        from fae_core.progress import progress
        from fae_eval.features import default_cache

        names = ("survey", "extractor", "weights", "size", "limit", "batch_size", "device", "title")
        given = {name: getattr(self, name) for name in names}
        return {**given, "cache": default_cache() if self.cache else None, "progress": progress}


def result_path(out: Path | None, name: str, overwrite: bool, beside: str | None = None) -> Path | None:
    """The file of a record, where it and the picture beside it may be written.

    Args:
        out: a .json file, or a folder; None for no record.
        name: of the file in a folder, without .json.
        overwrite: whether they may replace other files.
        beside: how the picture's name ends, such as ".svg"; None for no picture.

    Raises:
        OutputExists: where one of them would.
        FAEError: for other suffixes.
    """
    if out is None:
        return None
    if out.suffix and out.suffix != ".json" and not os.path.isdir(out):  # noqa: PTH112 (Path's raises for long names)
        raise FAEError(f"--out {out} must be a folder or end in .json")
    path = out if out.suffix == ".json" else out / f"{name}.json"
    for file in (path, *([] if beside is None else [path.with_suffix(beside)])):
        claim_file(file, overwrite=overwrite)
    return path


def check_latents(samples: Iterable[str | None], decoder: str | None) -> None:
    """Check that latent stores among samples have a decoder of theirs, by their latent_spec.json alone.

    Args:
        samples: paths of what is measured; None for one that is not given.
        decoder: where the tokenizer is; None for none.

    Raises:
        LatentSpecMismatch: the decoder is for other latents.
        FAEError: there is none.
    """
    from fae_core.models.stored import stored_model, stored_spec

    for path in samples:
        if path is None or (spec := stored_spec(Path(path))) is None:
            continue
        if decoder is None:
            raise FAEError(f"{path} holds latents; give a model folder that decodes them (--decoder)")
        decodes = stored_model("tokenizer", decoder)
        if decodes is not None and decodes.spec is not None:
            decodes.spec.require(spec, context=path)


def require_used(used: bool, why: str, **given: Any) -> None:
    """Raise FAEError where an option is given that would not be looked at.

    Args:
        used: whether the options are looked at.
        why: what the error says of the option.
        **given: options by name, None where they are not given.
    """
    unused = next((name for name, value in given.items() if value is not None), None)
    if unused is not None and not used:
        raise FAEError(f"--{unused.replace('_', '-')} {why}")


def names_and_paths(given: list[str], what: str, form: str) -> dict[str, str]:
    """Name -> path of arguments NAME=PATH.

    Args:
        given: the arguments.
        what: what an error calls them, such as "line".
        form: how an error writes them, such as "NAME=RUN".

    Raises:
        FAEError: for another form, and for a name that comes twice.
    """
    found: dict[str, str] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not equals or not name or not path:
            raise FAEError(f"a {what} is {form}, not {one!r}")
        if name in found:
            raise FAEError(f"two {what}s are named {name!r}")
        found[name] = path
    return found


def draw_beside(result: Result, path: Path, groups: Sequence[Group], **axes: Any) -> None:
    """Write the chart of a record's groups beside it, and name it among the record's figures.

    Args:
        result: the record; changed.
        path: its file.
        groups: what is drawn.
        **axes: as in `comparison_chart`.
    """
    from fae_core.files import write_atomic
    from fae_eval.studies.comparison_chart import comparison_chart

    path.parent.mkdir(parents=True, exist_ok=True)
    chart = path.with_suffix(".svg")
    write_atomic(chart, comparison_chart(groups, title=result.title, **axes).encode(errors="replace"))
    result.figures.append({"path": chart.name, "caption": result.title})


def finish(result: Result, path: Path | None) -> None:
    """Print a record, write it to `path` unless that is None, and print what to run next."""
    document({**result.to_dict(), "file": path})
    say(result.text())
    if path is None:
        say("wrote nothing (no --out); next: the same with --out results/")
        return
    result.save(path)
    pictures = "".join(f" and {path.parent / figure['path']}" for figure in result.figures)
    say(f"wrote {path}{pictures}; next: {command_line('eval report', _run_folder(path))}")


def _run_folder(path: Path) -> Path:
    """The folder for a report of a record: the one above a results folder."""
    return path.parent.parent if path.parent.name == RESULTS else path.parent
