"""What text a model is trained on, checked by files and settings alone. torch is not imported."""

from __future__ import annotations

from pathlib import Path

from fae_core.errors import DataError
from fae_core.files import require_new_folder
from fae_core.folders import CACHE_INDEX, CACHE_KEYS, CACHE_TOKENS, STORE_INDEX
from fae_core.images.caption_choice import CaptionChoice
from fae_core.models.sources import require_source
from fae_diffusion.models.mmdit_config import MMDiTConfig
from fae_diffusion.text.config import TextEncoderConfig

CACHE_KIND = "text cache"


def require_texts(folder: Path, template: str, choice: CaptionChoice) -> None:
    """Check that the samples of a latent store have captions, or classes whose names a template makes captions of.

    Args:
        folder: The store's; one that is none is reported elsewhere.
        template: With one {} for a class's name.
        choice: Which of a sample's captions is read; only weights need their number, for which all are read.

    Raises:
        DataError: There is no text, the template has another form, the store is damaged, or a sample has another number
            of captions than there are weights.
    """
    if not (folder / STORE_INDEX).is_file():
        return
    from fae_core.latent_store.format import read_index
    from fae_core.latent_store.shards import Shards
    from fae_core.spec import LatentSpec

    index = read_index(folder)
    if index.plan.captions:
        if choice.weights is not None:
            # Training compares the shards with their checksums, when it reads them.
            choice.require(Shards(folder, index, LatentSpec.load(folder), verify=False).captions(), str(folder))
        return
    if not index.plan.labels or index.plan.classes is None:
        raise no_texts(folder)
    check_template(template)


def check_template(template: str) -> None:
    """Raise DataError unless a caption template has one {}."""
    if template.count("{}") != 1:
        raise DataError(f"a caption template has one {{}} for the class name, unlike {template!r}")


def no_texts(folder: Path) -> DataError:
    """The error about a store without text."""
    return DataError(f"{folder} has neither captions nor class names: there is no text to train on")


def require_encoder(config: MMDiTConfig) -> TextEncoderConfig:
    """The text encoder of a model that is trained on captions.

    Args:
        config: The model's settings.

    Raises:
        DataError: It has none, or settings that the embeddings kept on disk do not fit.
        InvalidFile: The encoder is a path where nothing is.
    """
    if config.text_encoder is None:
        raise DataError("a text-conditional model needs model.text_encoder: {name: ..., max_length: ...}")
    if config.text_encoder.dtype != "bf16":
        raise DataError("embeddings of captions are kept in bf16: leave model.text_encoder.dtype out")
    if config.pooled_width is not None:
        raise DataError("captions are embedded token by token: leave model.pooled_width out")
    if "/" in config.text_encoder.name:  # else it is a package's
        require_source(config.text_encoder.name)
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
