"""Networks that turn images into features to compare. `load_extractor(name)` finds one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names

if TYPE_CHECKING:
    from fae_eval.extractors.base import FeatureExtractor as FeatureExtractor
    from fae_eval.extractors.base import ImageBatch as ImageBatch
    from fae_eval.extractors.registry import DEFAULT as DEFAULT
    from fae_eval.extractors.registry import known_extractors as known_extractors
    from fae_eval.extractors.registry import load_extractor as load_extractor

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names]
