"""Which models `fae explore` opens, by their folders alone: no weights are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fae_core.errors import FAEError, InvalidFile, LatentSpecMismatch
from fae_core.files import read_json
from fae_core.folders import (
    BUNDLE_PARTS,
    BUNDLE_RECORD,
    CHECKPOINT_STATE,
    ENCODER,
    GENERATOR,
    LATENT_SPEC,
    MODEL_CONFIG,
    PIXEL_DECODER,
    RUN_MODEL,
)
from fae_core.models.bundles import bundle_folders, is_bundle
from fae_core.models.sources import locate_folder, require_source, run_of
from fae_core.plugins import load_plugins
from fae_core.spec import LatentSpec

# Of a repository on the hub these say what it is: a model, a run, or a bundle.
_DESCRIBING = [
    BUNDLE_RECORD,
    *(f"{place}{name}" for place in ("", f"{RUN_MODEL}/", f"{GENERATOR}/") for name in (MODEL_CONFIG, LATENT_SPEC)),
]


@dataclass(frozen=True)
class Found:
    """The models to open.

    Attributes:
        title: What they are called together.
        tokenizer: Where the tokenizer is.
        generators: Where the generators of its latents are, by the name that the page shows.
        left_out: Sentences about models that were found and are not opened.
    """

    title: str
    tokenizer: str
    generators: dict[str, str]
    left_out: tuple[str, ...] = ()


def find_models(model: str | None, tokenizer: str | None = None, generators: Sequence[str] = ()) -> Found:
    """The tokenizer and the generators that some names mean.

    Args:
        model: A bundle (name, folder or repository), a run, a model folder, or a folder of runs such as that of
            `fae demo`, whose tokenizer that paints images and whose generators of its latents are taken. Without any
            name, the bundle that the installed packages carry.
        tokenizer: Where the tokenizer is; it is taken instead of the one found.
        generators: Where generators are, beside those found.

    Raises:
        InvalidFile: Nothing is there, or what is there is no model.
        FAEError: No tokenizer is named or found.
    """
    if model is None and tokenizer is None and not generators:
        model = _only_bundle()
    for source in (model, tokenizer, *generators):
        if source is not None:
            require_source(source)
    found = Found("", "", {}) if model is None else _found_in(model)
    chosen = {**found.generators, **_named(generators, set(found.generators))}
    reads = tokenizer or found.tokenizer or _beside([*chosen.values()])
    if not reads:
        raise FAEError(f"no tokenizer of the latents of {', '.join(chosen.values())} is beside it; give --tokenizer")
    return Found(found.title or tokenizer or generators[0], reads, chosen, found.left_out)


def _only_bundle() -> str:
    """The name of the one bundle that is installed. Raises FAEError where there are none or several."""
    names = sorted(bundle_folders())
    if len(names) != 1:
        raise FAEError(f"name what to explore: --model, such as {names[0] if names else 'runs/demo'}")
    return names[0]


def _found_in(source: str) -> Found:
    """The models that one name means."""
    folder = locate_folder(source, _DESCRIBING)
    if is_bundle(folder):
        config = folder / GENERATOR / MODEL_CONFIG
        kind = read_json(config).get("model_type") if config.is_file() else None
        return Found(source, source, {str(kind or "generator"): source})
    kind = _kind(folder)
    if kind == "generator":
        return Found(source, "", {_short(source): source})
    if kind == "tokenizer":
        return Found(source, source, {})
    if kind is not None:
        raise InvalidFile(f"{source} is a {kind}, neither a tokenizer nor a generator of the installed packages")
    return _found_among(source, sorted(child for child in folder.iterdir() if child.is_dir()))


def _found_among(source: str, folders: Sequence[Path]) -> Found:
    """The models among some folders of one experiment."""
    kinds = {folder: _kind(folder) for folder in folders}
    tokenizers = {folder: _spec(folder) for folder, kind in kinds.items() if kind == "tokenizer"}
    generators = {folder: _spec(folder) for folder, kind in kinds.items() if kind == "generator"}
    bundles = [folder for folder in folders if is_bundle(folder)]
    if not tokenizers:
        if len(bundles) == 1 and not generators:
            return _found_in(str(bundles[0]))
        raise InvalidFile(
            f"{source} holds no model and no run that is done with one ({MODEL_CONFIG}); "
            "give a bundle, a run, a model, or the folder of `fae demo`"
        )
    best = max(tokenizers, key=lambda folder: (_count(tokenizers[folder], generators.values()), _paints(folder)))
    fit = {folder.name: str(folder) for folder, spec in generators.items() if _same(tokenizers[best], spec)}
    others = [folder.name for folder, spec in generators.items() if not _same(tokenizers[best], spec)]
    left_out = (f"left out, as their latents are others than those of {best}: {', '.join(others)}",) if others else ()
    return Found(source, str(best), fit, left_out)


def _named(sources: Sequence[str], taken: set[str]) -> dict[str, str]:
    """Generators by a short name of each, its whole place where the short name is taken."""
    named: dict[str, str] = {}
    for source in sources:
        short = _short(source)
        named[source if short in taken or short in named else short] = source
    return named


def _short(source: str) -> str:
    """What the page calls a generator: the last part of its name, the run's for the model of a run."""
    if not Path(source).is_dir():
        return source.rpartition("/")[2]
    folder = Path(source).resolve()
    return folder.parent.name if folder.name == RUN_MODEL else folder.name


def _beside(generators: Sequence[str]) -> str:
    """The tokenizer of some generators' latents, in the folder that holds a generator's run; "" where there is none."""
    for source in generators:
        folder = Path(source)
        if not folder.is_dir() or _kind(folder) != "generator" or (spec := _spec(folder)) is None:
            continue
        around = (run_of(folder) or folder).resolve().parent
        fit = [
            child
            for child in sorted(around.iterdir())
            if child.is_dir() and _kind(child) == "tokenizer" and _same(_spec(child), spec)
        ]
        if fit:
            return str(max(fit, key=_paints))
    return ""


def _model_folder(folder: Path) -> Path | None:
    """The folder that holds a model's files: itself, or a run's; None where there are none."""
    places = (folder, folder / RUN_MODEL)
    return next((place for place in places if (place / MODEL_CONFIG).is_file()), None)


def _kind(folder: Path) -> str | None:
    """What a folder holds: "tokenizer", "generator", another model's type; None where it holds no model."""
    if (folder / CHECKPOINT_STATE).is_file():
        return "generator"
    place = _model_folder(folder)
    if place is None:
        return None
    stored = read_json(place / MODEL_CONFIG)
    kind, package = stored.get("model_type"), stored.get("package")
    for part in BUNDLE_PARTS:
        if kind in load_plugins(f"fae.{part}s"):
            return part
    # The package of a generator may be absent; loading it then says which one.
    return "generator" if package in ("fae_diffusion", "fae_flow") else str(kind)


def _spec(folder: Path) -> LatentSpec | None:
    """The latents of the model in a folder; None where it does not say."""
    place = _model_folder(folder)
    return LatentSpec.load(place) if place is not None and (place / LATENT_SPEC).is_file() else None


def _same(spec: LatentSpec | None, other: LatentSpec | None) -> bool:
    """Whether two models have the same latents."""
    try:
        return spec is not None and other is not None and spec.require(other) is None
    except LatentSpecMismatch:
        return False


def _count(spec: LatentSpec | None, others: Iterable[LatentSpec | None]) -> int:
    """How many of some models have the same latents."""
    return sum(_same(spec, other) for other in others)


def _paints(folder: Path) -> bool:
    """Whether a tokenizer's folder has what paints images, as far as its files show."""
    place = _model_folder(folder)
    return place is not None and ((place / PIXEL_DECODER).is_dir() or not (place / ENCODER).is_dir())
