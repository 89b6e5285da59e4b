"""Loading a model by its name, whichever installed package knows its type.

Packages register classes under the entry-point groups "fae.generators" and "fae.tokenizers", keyed by the `model_type` that stands in a
model folder's config.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fae_core.errors import FAEError, InvalidFile, MissingPackage, UnknownName
from fae_core.folders import CHECKPOINT_STATE
from fae_core.plugins import is_missing_own_package, load_plugins
from fae_core.spec import LatentSpec

if TYPE_CHECKING:
    pass
from fae_core.protocols import Decoder, Generator, Tokenizer


def load_generator(source: str | Path, *, spec: LatentSpec | None = None, **options: Any) -> Generator:
    """The generator in a model folder, a run folder, a checkpoint of a run (RUN/checkpoints/step-...), a bundle (by name or
    folder) or a hub repository.

    spec: the latent space that the caller has; raises LatentSpecMismatch unless the generator was made for it.
    options: passed to the class's `from_pretrained` (device, dtype, revision, ...); a checkpoint takes device and dtype.
    Raises InvalidFile where there is no model, UnknownName where no installed package knows its type.
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
    """The class of the generator in a local folder or installed bundle, without its weights; None where only loading will tell."""
    from fae_core.models.bundles import bundle_folders

    folder = Path(source)
    try:
        return _find("generator", source, {})[1] if folder.is_dir() or str(source) in bundle_folders() else None
    except FAEError:  # `load_generator` says what is wrong
        return None


def load_tokenizer(source: str | Path, **options: Any) -> Tokenizer:
    """The tokenizer in a model folder, a run folder, a bundle or a hub repository; raises as `load_generator` does."""
    folder, tokenizer_class = _find("tokenizer", source, options)
    return tokenizer_class.from_pretrained(folder, **options)


def load_decoder(source: str | Path, **options: Any) -> Decoder:
    """What paints the latents of a tokenizer, without the parts that only encoding needs (an FAE's backbone).

    A tokenizer class that can do so has `decoder_from_pretrained`; any other is loaded whole. Raises FAEError for one that
    cannot decode, and as `load_generator` does.
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
        raise InvalidFile(f"{folder}/config.json does not say its model_type")
    known = load_plugins(f"fae.{kind}s")
    if model_type not in known:
        if is_missing_own_package(stored.get("package")):
            raise MissingPackage(f"the {kind} in {source} ({model_type})", stored["package"].replace("_", "-"))
        raise UnknownName(f"{kind} type", model_type, known)
    return folder, known[model_type].load()
