"""Loading a model by its name, with the class that an installed package registers for its type.

Packages register classes under the entry-point groups "fae.generators" and "fae.tokenizers", keyed by the `model_type`
in a model folder's config.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from fae_core.errors import FAEError, InvalidFile, MissingPackage, UnknownName
from fae_core.folders import CHECKPOINT_STATE, MODEL_CONFIG
from fae_core.plugins import is_missing_own_package, load_plugins
from fae_core.protocols import Decoder, Generator, Tokenizer
from fae_core.spec import LatentSpec


def load_generator(source: str | Path, *, spec: LatentSpec | None = None, **options: Any) -> Generator:
    """A saved generator.

    Args:
        source: A model folder, run, checkpoint (RUN/checkpoints/step-...), bundle (folder or name) or hub repository.
        spec: The latent space that it must be for; None accepts any.
        options: Of the class's `from_pretrained` (device, dtype, revision, ...); a checkpoint takes device and dtype.

    Raises:
        LatentSpecMismatch: Where the generator is for another space than `spec`.
        InvalidFile: Where there is no model, or it is damaged.
        UnknownName: Where no installed package registers its type.
    """
    if (Path(source) / CHECKPOINT_STATE).is_file():
        from fae_core.models.checkpoints import generator_in_checkpoint

        generator = generator_in_checkpoint(source, **options)
    else:
        folder, generator_class = _find("generator", source, options)
        generator = generator_class.from_pretrained(folder, **options)
    if spec is not None:
        spec.require(generator.spec, context=f"generator {source}")
    return generator


def generator_class(source: str | Path) -> Any | None:
    """The class of the generator in a local folder or installed bundle; None where it is only known after loading."""
    from fae_core.models.bundles import bundle_folders

    folder = Path(source)
    try:
        return _find("generator", source, {})[1] if folder.is_dir() or str(source) in bundle_folders() else None
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
    folder, tokenizer_class = _find("tokenizer", source, options)
    return tokenizer_class.from_pretrained(folder, **options)


def load_decoder(source: str | Path, **options: Any) -> Decoder:
    """The decoder of a saved tokenizer, without the parts that only encoding needs (an FAE's backbone).

    A tokenizer class that can load it alone has `decoder_from_pretrained`; any other is loaded whole.

    Args:
        source: As in `load_tokenizer`.
        options: Of the class's `from_pretrained`.

    Raises:
        FAEError: For a tokenizer that cannot decode, and as `load_generator`.
    """
    folder, tokenizer_class = _find("tokenizer", source, options)
    if not hasattr(tokenizer_class, "decode"):
        raise FAEError(f"{source} can encode but not decode; give a tokenizer with a pixel decoder")
    load = getattr(tokenizer_class, "decoder_from_pretrained", tokenizer_class.from_pretrained)
    return load(folder, **options)


def _find(kind: Literal["generator", "tokenizer"], source: str | Path, options: dict[str, Any]) -> tuple[Path, Any]:
    """The model folder and the class that reads it."""
    from fae_core.models.folder import read_config
    from fae_core.models.sources import resolve_model_folder

    hub = {name: options[name] for name in ("revision", "token") if name in options}
    folder = resolve_model_folder(source, part=kind, **hub)
    stored = read_config(folder)
    model_type = stored.get("model_type")
    if not isinstance(model_type, str):
        raise InvalidFile(f"{folder}/{MODEL_CONFIG} does not say its model_type")
    known = load_plugins(f"fae.{kind}s")
    if model_type not in known:
        if is_missing_own_package(stored.get("package")):
            raise MissingPackage(f"the {kind} in {source} ({model_type})", stored["package"].replace("_", "-"))
        raise UnknownName(f"{kind} type", model_type, known)
    return folder, known[model_type].load()
