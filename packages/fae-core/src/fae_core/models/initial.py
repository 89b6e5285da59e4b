"""A generator that begins with the weights of another one: fine-tuning, for other classes or another objective."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fae_core.errors import InvalidFile, LatentSpecMismatch
from fae_core.models.build import on_meta
from fae_core.models.identity import model_checksum
from fae_core.models.load import load_generator

log = logging.getLogger("fae")


def begin_with(generator: Any, source: str | Path, *, same_classes: bool = True) -> str | None:
    """Copy the weights of a saved generator into one of the same architecture, and say which stay as they are.

    Weights that the saved one lacks stay, such as those of MeanFlow's interval, and so do those of classes where these
    are others. On the meta device names and shapes are compared and nothing is copied.

    Args:
        generator: What to copy into; a torch module with `config` and `spec`.
        source: As `load_generator` takes it.
        same_classes: Whether label n means the same to both.

    Returns:
        A checksum of the weights that were there; None on the meta device.

    Raises:
        LatentSpecMismatch: The latents have another shape.
        InvalidFile: It has weights that the generator lacks, or of other shapes.
    """
    initial: Any = load_generator(source)
    _compare_spaces(initial, generator, str(source))
    state, own = initial.state_dict(), generator.state_dict()
    kept = set() if same_classes else _weights_of_classes(type(generator), generator.config, generator.spec)
    strange = sorted(name for name in state.keys() - kept if name not in own or state[name].shape != own[name].shape)
    if strange:
        raise InvalidFile(
            f"{source} does not fit the model settings: there is no place for its {_few(strange)}; leave out the "
            "--set model... that changes a size"
        )
    taken = {name: tensor for name, tensor in state.items() if name not in kept}
    generator.load_state_dict(taken, strict=False)
    new = sorted(own.keys() - taken.keys())
    log.info("beginning with the weights of %s%s", source, f"; new are {_few(new)}" if new else "")
    return None if on_meta() else model_checksum(state, None)


def _compare_spaces(initial: Any, generator: Any, source: str) -> None:
    """Raise LatentSpecMismatch where the latents' shapes differ; warn where another thing does."""
    try:
        initial.spec.require(generator.spec, context=source)
    except LatentSpecMismatch as mismatch:
        if initial.spec.shape != generator.spec.shape:
            raise
        log.warning("the weights to begin with were trained on other latents: %s", mismatch)


def _weights_of_classes(generator_class: Any, config: Any, spec: Any) -> set[str]:
    """Names of the weights whose shapes depend on how many classes there are."""
    with torch.device("meta"):
        one, more = (
            generator_class(config.model_copy(update={"classes": config.classes + extra}), spec).state_dict()
            for extra in (0, 1)
        )
    return {name for name in one if one[name].shape != more[name].shape}


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
