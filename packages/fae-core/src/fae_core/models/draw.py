"""Calling the `sample` of any generator: its options are checked, and so are the samples."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.models.sample_options import check_options
from fae_core.protocols import Observer
from fae_core.random import SlotRandom

EXPLODED = 100.0  # root mean square at which a sample counts as diverged; normalised latents have 1


def draw_latents(
    generator: Any,
    condition: Any,
    random: SlotRandom,
    options: Mapping[str, Any],
    *,
    noise: Tensor | None = None,
    observe: Observer | None = None,
) -> Tensor:
    """Latents of a generator, checked.

    Args:
        generator: The model.
        condition: As in `Generator.sample`.
        random: One slot per sample.
        options: Options of `generator.sample` by name.
        noise: The starting points (B, C, h, w); None draws them from `random`.
        observe: Called at every step of a generator that takes it; others are only seen when they are done.

    Returns:
        Normalised latents (B, C, h, w), one per condition.

    Raises:
        FAEError: For unknown options, and for samples that are not finite or diverged.
    """
    own: dict[str, Any] = check_options(generator, options)
    if noise is not None:
        own["noise"] = noise
    if observe is not None and "observe" in inspect.signature(generator.sample).parameters:
        own["observe"] = observe
    z = generator.sample(condition, random=random, **own)
    return check_samples(z, random)


def check_samples(z: Tensor, random: SlotRandom | None = None) -> Tensor:
    """z itself, after a check.

    Args:
        z: Normalised latents (B, C, h, w).
        random: Its slots number the samples in the message.

    Raises:
        FAEError: Where samples are not finite, or their root mean square is beyond `EXPLODED`.
    """
    size = z.float().flatten(1).square().mean(1).sqrt()
    for lost, what in ((~torch.isfinite(z).flatten(1).all(1), "are not finite"), (~(size <= EXPLODED), "exploded")):
        if lost.any():
            first = int(lost.nonzero()[0])
            name = first if random is None else random.slots[first]
            raise FAEError(
                f"{int(lost.sum())} of {len(z)} samples {what} (sample {name} first, root mean square "
                f"{size[first]:.3g}); lower the guidance scale, or take more steps or fp32"
            )
    return z
