"""Loading a model by its name, with the class that an installed package registers for its type.

Packages register classes under the entry-point groups "fae.generators" and "fae.tokenizers", keyed by the `model_type`
in a model folder's config.json.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fae_core.commands.loading import loading
from fae_core.errors import FAEError, require_known
from fae_core.folders import CHECKPOINT_STATE
from fae_core.models.sources import HubOptions, resolve_model_folder
from fae_core.models.stored import Kind, stored_model, stored_point
from fae_core.spec import LatentSpec

if TYPE_CHECKING:  # which imports torch
    from fae_core.models.loaded import LoadedDecoder, LoadedGenerator, LoadedTokenizer


def load_generator(source: str | Path, *, spec: LatentSpec | None = None, **options: Any) -> LoadedGenerator:
    """A saved generator.

    Args:
        source: A model folder, run, checkpoint (RUN/checkpoints/step-...), bundle (folder or name) or hub repository.
        spec: The latent space that it must be for; None accepts any.
        options: Of the class's `from_pretrained` (device, dtype, `HubOptions`); a checkpoint takes device and dtype.

    Raises:
        LatentSpecMismatch: Where the generator is for another space than `spec`.
        InvalidFile: Where there is no model, or it is damaged.
        UnknownName: Where no installed package registers its type, or for an unknown option.
    """
    if (Path(source) / CHECKPOINT_STATE).is_file():
        from fae_core.models.checkpoints import generator_in_checkpoint

        require_known("option of a checkpoint", options, ("device", "dtype"))
        generator = generator_in_checkpoint(source, **options)
    else:
        generator = _load("generator", source, options)
    if spec is not None:
        spec.require(generator.spec, context=f"generator {source}")
    return generator


def generator_class(source: str | Path) -> Any | None:
    """The class of the generator in a local folder or installed bundle; None where it is only known after loading."""
    try:
        stored = stored_model("generator", source)
    except FAEError:  # `load_generator` will raise it again
        return None
    return None if stored is None else stored.point.load()


def load_tokenizer(source: str | Path, **options: Any) -> LoadedTokenizer:
    """A saved tokenizer.

    Args:
        source: A model folder, run, bundle (folder or name) or hub repository.
        options: Of the class's `from_pretrained`.

    Raises:
        FAEError: As `load_generator`.
    """
    return _load("tokenizer", source, options)


def load_decoder(source: str | Path, **options: Any) -> LoadedDecoder:
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
    folder = resolve_model_folder(source, part=kind, parts=("",), weights=False, **hub)
    return stored_point(kind, source, folder)
