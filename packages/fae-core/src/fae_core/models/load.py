"""Loading a model by its name, with the class that an installed package registers for its type.

Packages register classes under the entry-point groups "fae.generators" and "fae.tokenizers", keyed by the `model_type`
in a model folder's config.json.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

from fae_core.commands.loading import loading
from fae_core.errors import FAEError, InvalidFile, MissingPackage, UnknownName
from fae_core.folders import CHECKPOINT_STATE, MODEL_CONFIG
from fae_core.plugins import is_missing_own_package, load_plugins
from fae_core.protocols import Decoder, Generator, Tokenizer
from fae_core.spec import LatentSpec

Kind = Literal["generator", "tokenizer"]


def load_generator(source: str | Path, *, spec: LatentSpec | None = None, **options: Any) -> Generator:
    """A saved generator.

    Args:
        source: A model folder, run, checkpoint (RUN/checkpoints/step-...), bundle (folder or name) or hub repository.
        spec: The latent space that it must be for; None accepts any.
        options: Of the class's `from_pretrained` (device, dtype, `HubOptions`); a checkpoint takes device and dtype.

    Raises:
        LatentSpecMismatch: Where the generator is for another space than `spec`.
        InvalidFile: Where there is no model, or it is damaged.
        UnknownName: Where no installed package registers its type.
    """
    if (Path(source) / CHECKPOINT_STATE).is_file():
        from fae_core.models.checkpoints import generator_in_checkpoint

        generator = generator_in_checkpoint(source, **options)
    else:
        generator = _load("generator", source, options)
    if spec is not None:
        spec.require(generator.spec, context=f"generator {source}")
    return generator


def generator_type(source: str | Path) -> str | None:
    """The model_type of the generator in a local folder or installed bundle; None where only loading tells."""
    point = _known_point(source)
    return None if point is None else point.name


def generator_class(source: str | Path) -> Any | None:
    """The class of the generator in a local folder or installed bundle; None where it is only known after loading."""
    point = _known_point(source)
    return None if point is None else point.load()


def _known_point(source: str | Path) -> EntryPoint | None:
    from fae_core.models.bundles import bundle_folders

    folder = Path(source)
    try:
        return _point_of("generator", source, {}) if folder.is_dir() or str(source) in bundle_folders() else None
    except FAEError:  # `load_generator` will raise it again
        return None


def load_tokenizer(source: str | Path, **options: Any) -> Tokenizer:
    """A saved tokenizer.

    Args:
        source: A model folder, run, bundle (folder or name) or hub repository.
        options: Of the class's `from_pretrained`.

    Raises:
        FAEError: As `load_generator`.
    """
    return _load("tokenizer", source, options)


def load_decoder(source: str | Path, **options: Any) -> Decoder:
    """The decoder of a saved tokenizer, without the parts that only encoding needs (an FAE's backbone).

    A tokenizer class that can load it alone has `decoder_from_pretrained`; any other is loaded whole.

    Args:
        source: As in `load_tokenizer`.
        options: Of the class's `from_pretrained`.

    Raises:
        FAEError: For a tokenizer that cannot decode, and as `load_generator`.
    """
    return _load("tokenizer", source, options, decoder=True)


def _load(kind: Kind, source: str | Path, options: dict[str, Any], *, decoder: bool = False) -> Any:
    """The model in `source`, read by its class; of a hub repository only what this class reads is fetched.

    Args:
        kind: Which part of a bundle.
        source: As in `load_generator`.
        options: Of the class's `from_pretrained`.
        decoder: Read the decoder of a tokenizer alone, where its class can.
    """
    from fae_core.models.sources import HubOptions, resolve_model_folder

    hub: Any = {name: options[name] for name in HubOptions.__annotations__ if name in options}
    rest = {name: value for name, value in options.items() if name not in hub or name == "variant"}
    model_class = _point_of(kind, source, hub).load()
    load, parts = model_class.from_pretrained, getattr(model_class, "model_parts", None)
    if decoder:
        if not hasattr(model_class, "decode"):
            raise FAEError(f"{source} can encode but not decode; give a tokenizer with a pixel decoder")
        load = getattr(model_class, "decoder_from_pretrained", load)
        parts = getattr(model_class, "decoder_parts", parts)
    with loading(f"{kind} {source}"):
        return load(resolve_model_folder(source, part=kind, parts=parts, **hub), **rest)


def _point_of(kind: Kind, source: str | Path, hub: Any) -> EntryPoint:
    """The entry point of the class that reads the model in `source`, by its config.json alone."""
    from fae_core.files import read_json
    from fae_core.models.sources import resolve_model_folder

    folder = resolve_model_folder(source, part=kind, parts=("",), weights=False, **hub)
    stored = read_json(folder / MODEL_CONFIG)
    model_type = stored.get("model_type")
    if not isinstance(model_type, str):
        raise InvalidFile(f"{folder}/{MODEL_CONFIG} does not say its model_type")
    known = load_plugins(f"fae.{kind}s")
    if model_type not in known:
        if is_missing_own_package(stored.get("package")):
            raise MissingPackage(f"the {kind} in {source} ({model_type})", stored["package"].replace("_", "-"))
        raise UnknownName(f"{kind} type", model_type, known)
    return known[model_type]
