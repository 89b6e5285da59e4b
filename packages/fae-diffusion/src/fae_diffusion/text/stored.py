"""What text a model is trained on, checked by files and settings alone. torch is not imported."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from fae_core.errors import DataError
from fae_core.files import require_new_folder
from fae_core.folders import CACHE_INDEX, CACHE_KEYS, CACHE_TOKENS
from fae_core.images.caption_choice import CaptionChoice
from fae_core.latent_store.facts import StoreFacts
from fae_core.models.sources import require_source
from fae_diffusion.models.mmdit_config import MMDiTConfig
from fae_diffusion.text.config import TextEncoderConfig
from fae_diffusion.text.source import encoder_source

CACHE_KIND = "text cache"


def require_texts(store: StoreFacts, template: str, choice: CaptionChoice) -> None:
    """Check that the samples of a latent store have captions, or classes whose names a template makes captions of.

    Args:
        store: The store.
        template: With one {} for a class's name.
        choice: Which of a sample's captions is read; only weights need their number, for which all are read.

    Raises:
        DataError: There is no text, the template has another form, or a sample has another number of captions than
            there are weights.
    """
    if choice.weights is not None:
        choice.require(captions_of(store, template), str(store.folder))
    elif not store.plan.captions:
        _class_prompts(store, template)


def captions_of(store: StoreFacts, template: str) -> list[str]:
    """One text per sample: the store's own, else its class's name put into `template` ("a photo of a {}").

    A store's text may hold several captions of its sample: see `split_captions`.

    Raises DataError for a store that has neither.
    """
    if store.captions is not None:
        return store.captions
    prompts = _class_prompts(store, template)
    assert store.labels is not None, "classes are those of labels"
    return [prompts[label] for label in store.labels]


def texts_hash(captions: Iterable[str]) -> str:
    """What captions are, wherever they came from: SHA-256 of their texts in order."""
    digest = hashlib.sha256()
    for caption in captions:
        data = caption.encode(errors="surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _class_prompts(store: StoreFacts, template: str) -> list[str]:
    """The prompt of each class. Raises DataError where there are no names of classes, or the template has no {}."""
    if not store.plan.labels or store.classes is None:
        raise DataError(f"{store.folder} has neither captions nor class names: there is no text to train on")
    if template.count("{}") != 1:
        raise DataError(f"a caption template has one {{}} for the class name, unlike {template!r}")
    return [template.replace("{}", name.replace("_", " ")) for name in store.classes]


def require_encoder(config: MMDiTConfig) -> TextEncoderConfig:
    """The text encoder of a model that is trained on captions.

    Args:
        config: The model's settings.

    Raises:
        DataError: It has none, or settings that the embeddings kept on disk do not fit.
        InvalidFile: The encoder is a path where nothing is.
        MissingPackage: As `encoder_source`.
    """
    if config.text_encoder is None:
        raise DataError("a text-conditional model needs model.text_encoder: {name: ..., max_length: ...}")
    if config.text_encoder.kind != "one":
        raise DataError("captions are embedded by one encoder: SD3's three are for sampling from imported models")
    if config.text_encoder.dtype != "bf16":
        raise DataError("embeddings of captions are kept in bf16: leave model.text_encoder.dtype out")
    if config.pooled_width is not None:
        raise DataError("captions are embedded token by token: leave model.pooled_width out")
    source = encoder_source(config.text_encoder.name)
    if "/" in source:
        require_source(source)
    return config.text_encoder


def is_cache(folder: Path) -> bool:
    """Whether a folder is a cache of embeddings, which another may replace."""
    try:
        return all((folder / name).is_file() for name in (CACHE_INDEX, CACHE_KEYS, CACHE_TOKENS))
    except OSError:  # a name that is too long
        return False


def require_cache_place(folder: Path) -> None:
    """Raise FAEError where a folder holds something else than a cache of embeddings."""
    if not is_cache(folder):
        require_new_folder(folder, overwrite=True, kind=CACHE_KIND)
