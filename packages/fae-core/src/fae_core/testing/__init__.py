"""What other packages' tests use: a conformance suite for generators, and the way to shared data. Needs pytest."""

from fae_core.testing.generator import GeneratorConformance, toy_latents
from fae_core.testing.shared import shared_folder

__all__ = ["GeneratorConformance", "shared_folder", "toy_latents"]
