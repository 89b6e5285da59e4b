"""What tests of any package use: a conformance suite for generators (needs pytest), shared data, checks of kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names

if TYPE_CHECKING:
    from fae_core.testing.conformance import GeneratorConformance as GeneratorConformance
    from fae_core.testing.conformance import toy_latents as toy_latents
    from fae_core.testing.shared import shared_folder as shared_folder

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names]
