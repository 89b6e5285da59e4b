"""A generator that begins with the weights of another one: fine-tuning, for other classes or another objective."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fae_core.errors import InvalidFile, LatentSpecMismatch
from fae_core.models.build import on_meta
from fae_core.models.identity import model_checksum
from fae_core.models.load import load_generator

log = logging.getLogger("fae")


def begin_with(generator: Any, source: str | Path, *, same_classes: bool = True) -> str | None:
    """Copy the weights of a saved generator into one of the same architecture, and say which stay as they are.

    Weights that the saved one lacks stay, such as those of MeanFlow's interval, and so do those of classes where these
    are others. Those of a part that the settings switched off are left out, but never blocks. On the meta device names
    and shapes are compared and nothing is copied.

    Args:
        generator: What to copy into; a torch module with `config` and `spec`.
        source: As `load_generator` takes it.
        same_classes: Whether label n means the same to both.

    Returns:
        A checksum of the weights that were there; None on the meta device.

    Raises:
        LatentSpecMismatch: The latents have another shape.
        InvalidFile: It has weights that have no place in the generator, or of other shapes.
    """
    initial: Any = load_generator(source)
    _compare_spaces(initial, generator, str(source))
    state, own = initial.state_dict(), generator.state_dict()
    kept = set() if same_classes else _weights_of_classes(type(generator), generator.config, generator.spec)
    unused = _switched_off(initial, generator, state.keys() - own.keys())
    taken = {name: tensor for name, tensor in state.items() if name not in kept | unused}
    strange = sorted(name for name in taken if name not in own or taken[name].shape != own[name].shape)
    if strange:
        raise InvalidFile(
            f"{source} does not fit the model settings: there is no place for its {_few(strange)}; leave out the "
            "setting of the model (--set, --config) that changes a size"
        )
    generator.load_state_dict(taken, strict=False)
    told = {"new": own.keys() - taken.keys(), "left out": unused}
    more = "".join(f"; {what} are {_few(sorted(names))}" for what, names in told.items() if names)
    log.info("beginning with the weights of %s%s", source, more)
    return None if on_meta() else model_checksum(state, None)


def _compare_spaces(initial: Any, generator: Any, source: str) -> None:
    """Raise LatentSpecMismatch where the latents' shapes differ; warn where another thing does."""
    try:
        initial.spec.require(generator.spec, context=source)
    except LatentSpecMismatch as mismatch:
        if initial.spec.shape != generator.spec.shape:
            raise
        log.warning("the weights to begin with were trained on other latents: %s", mismatch)


def _switched_off(initial: nn.Module, generator: nn.Module, names: Collection[str]) -> set[str]:
    """Those of some weights whose whole part of the model the generator lacks, where it is no block, nor in a list."""
    before, now = (dict(model.named_modules(remove_duplicate=False)) for model in (initial, generator))
    found: set[str] = set()
    for name in names:
        path = name.split(".")[:-1]
        parts = [".".join(path[: depth + 1]) for depth in range(len(path))]
        absent = next((part for part in parts if part not in now), "0")
        if not absent.split(".")[-1].isdigit() and not any(isinstance(before[part], nn.ModuleList) for part in parts):
            found.add(name)
    return found


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
