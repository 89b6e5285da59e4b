"""Labels of samples, and images of a generator and a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fae_core.images import to_uint8
from fae_core.images.classes import chosen_classes
from fae_core.images.tell import log_on_first_process
from fae_core.models.draw import draw_latents
from fae_core.models.load import load_decoder, load_generator
from fae_core.protocols import Decoder, Generator, Observer, class_count
from fae_core.random import SlotRandom, derive_seed
from fae_core.sampling.beforehand import all_names


def load_pair(generator: str, decoder: str, device: str | None = None) -> tuple[Generator, Decoder]:
    """A generator and what decodes its latents.

    Args:
        generator: where it is: a folder, a run, a bundle or a repository.
        decoder: the same of a tokenizer.
        device: where to load them.

    Raises:
        LatentSpecMismatch: they are for different latent spaces.
        FAEError: the tokenizer cannot decode, or as `load_generator` and `load_decoder`.
    """
    loaded, decodes = load_generator(generator, device=device), load_decoder(decoder, device=device)
    decodes.spec.require(loaded.spec, context=f"decoder {decoder} and generator {generator}")
    return loaded, decodes


def draw_labels(labels: str, count: int, classes: int, seed: int = 0, names: Sequence[str] | None = None) -> list[int]:
    """One label for each sample.

    Args:
        labels: "equal" repeats 0..K-1 in order, "random" draws uniformly; a list, "0,3,7" or "cat,dog", is repeated.
        count: how many samples.
        classes: how many classes there are.
        seed: of "random".
        names: of the classes, where they are known.

    Raises:
        FAEError: a listed class does not exist (see `chosen_classes`).
    """
    if labels == "equal":
        return [i % classes for i in range(count)]
    if labels == "random":
        return [derive_seed(seed, "label", i) % classes for i in range(count)]
    wanted = chosen_classes(labels, names, classes)
    return [wanted[i % len(wanted)] for i in range(count)]


def choose_labels(
    generator: Generator, labels: str, count: int, *, prompts: Sequence[str] = (), seed: int = 0
) -> tuple[list[int], tuple[str, ...] | None]:
    """One label for each sample of a generator, and the names of its classes.

    Args:
        generator: What is to be sampled from.
        labels: As `draw_labels` takes them.
        count: How many samples.
        prompts: Texts, among which labels choose then; a warning says how many of them are left out.
        seed: Of labels "random".

    Raises:
        FAEError: As `draw_labels`.
    """
    names = None if prompts else class_names_of(generator)
    chosen = draw_labels(labels, count, len(prompts) or classes_of(generator), seed, names)
    if prompts and labels == "equal" and count < len(prompts):
        log_on_first_process(
            f"{count} samples of {len(prompts)} prompts: the last {len(prompts) - count} are not drawn"
        )
    return chosen, names


def draw_images(
    generator: Generator,
    decoder: Decoder,
    condition: Any,
    random: SlotRandom,
    options: dict[str, Any],
    observe: Observer | None = None,
) -> np.ndarray:
    """Samples of a generator as images, one for each condition.

    Args:
        generator: what to sample from.
        decoder: what decodes its latents.
        condition: as the generator's `sample` takes it.
        random: the noise, B slots.
        options: of `sample`.
        observe: called at every step of a generator that takes it.

    Returns:
        (B, H, W, 3) uint8.

    Raises:
        FAEError: an option is unknown, or samples are not finite (see `draw_latents`).
    """
    with torch.inference_mode():
        images: Tensor = decoder.decode(draw_latents(generator, condition, random, options, observe=observe))
    return to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()


def class_names_of(generator: Generator) -> tuple[str, ...] | None:
    """The names of a generator's classes by label, numbers where it knows some alone; None where it knows none.

    Args:
        generator: Any generator.
    """
    return all_names(getattr(generator, "class_names", None), classes_of(generator))


def classes_of(generator: Generator) -> int:
    """How many classes a generator was built for; 1 where it has none.

    Args:
        generator: Any generator.
    """
    return int(class_count(generator) or 1)
