"""Labels, latents and pictures of a generator and what decodes its latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fae_core.images import to_uint8
from fae_core.images.classes import chosen_classes
from fae_core.models.draw import draw_latents
from fae_core.models.load import load_decoder, load_generator
from fae_core.protocols import Decoder, Generator, class_count
from fae_core.random import SlotRandom, derive_seed


def load_pair(generator: str, decoder: str, device: str | None = None) -> tuple[Generator, Decoder]:
    """A generator and what decodes its latents. Raises LatentSpecMismatch, or FAEError where a tokenizer cannot decode."""
    loaded, painter = load_generator(generator, device=device), load_decoder(decoder, device=device)
    painter.spec.require(loaded.spec, context=f"decoder {decoder} and generator {generator}")
    return loaded, painter


def draw_labels(labels: str, count: int, classes: int, seed: int = 0, names: Sequence[str] | None = None) -> list[int]:
    """One label per sample: "equal" repeats 0..K-1 in order, "random" draws uniformly, a list is repeated: "0,3,7", or
    "cat,dog" where the classes have `names` (see `chosen_classes`). Raises FAEError, UnknownName."""
    if labels == "equal":
        return [i % classes for i in range(count)]
    if labels == "random":
        return [derive_seed(seed, "label", i) % classes for i in range(count)]
    wanted = chosen_classes(labels, names, classes)
    return [wanted[i % len(wanted)] for i in range(count)]


def draw_images(
    generator: Generator, decoder: Decoder, condition: Any, random: SlotRandom, options: dict[str, Any]
) -> np.ndarray:
    """Samples as uint8 (B, H, W, 3), one per condition; `random` fixes the noise. Raises FAEError as `draw_latents` does."""
    with torch.inference_mode():
        images: Tensor = decoder.decode(draw_latents(generator, condition, random, options))
    return to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()


def class_names_of(generator: Generator) -> tuple[str, ...] | None:
    """The names of all of a generator's classes by label, their numbers where it knows only some; None where it knows none."""
    names = getattr(generator, "class_names", None)
    return None if names is None else (*names, *map(str, range(len(names), classes_of(generator))))


def classes_of(generator: Generator) -> int:
    """How many classes a generator was built for; 1 where it has none."""
    return int(class_count(generator) or 1)
