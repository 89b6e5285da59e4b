"""fae-core: what every FAE package shares. Importing it is light; torch is loaded when a name needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fae_core.moved  # noqa: F401 (earlier names of modules)
from fae_core._version import __version__
from fae_core.lazy import lazy_names

if TYPE_CHECKING:
    from fae_core import ops as ops
    from fae_core.errors import FAEError as FAEError
    from fae_core.errors import LatentSpecMismatch as LatentSpecMismatch
    from fae_core.images.gallery import show as show
    from fae_core.latent_store import LatentStore as LatentStore
    from fae_core.models.describe import describe as describe
    from fae_core.models.load import load_decoder as load_decoder
    from fae_core.models.load import load_generator as load_generator
    from fae_core.models.load import load_tokenizer as load_tokenizer
    from fae_core.models.presets import list_presets as list_presets
    from fae_core.protocols import Decoder as Decoder
    from fae_core.protocols import Generator as Generator
    from fae_core.protocols import Tokenizer as Tokenizer
    from fae_core.random import SlotRandom as SlotRandom
    from fae_core.spec import LatentSpec as LatentSpec

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names, "__version__"]
