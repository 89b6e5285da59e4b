"""Networks that turn images into features to compare. `load_extractor(name)` finds one."""

from fae_eval.extractors.base import FeatureExtractor, ImageBatch
from fae_eval.extractors.registry import DEFAULT, known_extractors, load_extractor

__all__ = ["DEFAULT", "FeatureExtractor", "ImageBatch", "known_extractors", "load_extractor"]
