"""The models that are explored, and what can be chosen about drawing from each."""

from __future__ import annotations

import inspect
import typing
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fae_core.models.load import load_generator, load_tokenizer
from fae_core.processes import resolve_device
from fae_core.protocols import FeatureEncoder, Generator, Tokenizer, can_decode, class_count, encoder_of
from fae_core.sampling import class_names_of
from fae_eval.explore.find import Found


@dataclass(frozen=True)
class Choices:
    """What a visitor chooses about drawing from a generator, and the generator's own settings.

    Attributes:
        classes: Names of its classes by label, each once: of several with one name each has its label behind it; empty
            for a generator without classes.
        text: Whether it draws what a prompt says.
        embedded: Whether it takes embeddings of text, and names no text encoder that would make them of a prompt.
        methods: Names of its samplers; empty for a generator that has one way only.
        method: The sampler of its own settings.
        steps: The steps of its own settings; None where it has no such setting.
        guided: Whether it can be guided by one number.
        guidance: The scale of its own settings; None where these have several parts.
    """

    classes: tuple[str, ...]
    text: bool
    embedded: bool
    methods: tuple[str, ...]
    method: str | None
    steps: int | None
    guided: bool
    guidance: float | None


@dataclass(frozen=True)
class Models:
    """A tokenizer and generators of its latents.

    Attributes:
        title: What they are called together.
        tokenizer: Images to latents and, where `paints`, back.
        generators: By name.
        device: Where they are.
    """

    title: str
    tokenizer: Any
    generators: dict[str, Generator]
    device: str

    @property
    def paints(self) -> bool:
        """Whether the tokenizer turns latents into images."""
        return can_decode(self.tokenizer)

    @property
    def sees(self) -> bool:
        """Whether the tokenizer shows the features that it makes latents of."""
        return isinstance(encoder_of(self.tokenizer), FeatureEncoder)

    def facts(self) -> str:
        """What they are, in a line."""
        spec, names = self.tokenizer.spec, ", ".join(self.generators) or "none"
        height, width = spec.image_shape
        return (
            f"Latents {spec.channels}x{spec.height}x{spec.width} of {spec.backbone}, images {width}x{height}; "
            f"generators: {names}; on {self.device}"
        )


def load_models(found: Found, device: str | None = None) -> Models:
    """The models that were found.

    Args:
        found: Their places.
        device: Where to put them; None takes a GPU where there is one.

    Raises:
        LatentSpecMismatch: A generator is for other latents than the tokenizer's.
        FAEError: As `load_generator` and `load_tokenizer`.
    """
    device = resolve_device(device)
    tokenizer: Tokenizer = load_tokenizer(found.tokenizer, device=device)
    generators = {}
    for name, source in found.generators.items():
        generators[name] = load_generator(source, device=device)
        tokenizer.spec.require(generators[name].spec, context=f"tokenizer {found.tokenizer} and generator {source}")
    return Models(found.title, tokenizer, generators, str(device))


def choices_of(generator: Any) -> Choices:
    """What can be chosen about drawing from a generator, by what its `sample` takes."""
    config, count = getattr(generator, "config", None), class_count(generator)
    fields = getattr(getattr(generator, "sample_config", None), "model_fields", {})
    own, taken = getattr(config, "sampling", None), inspect.signature(generator.sample).parameters
    names = class_names_of(generator) or (tuple(map(str, range(count))) if count else ())
    steps, guidance = (
        getattr(own, name, None) if name in fields else taken[name].default if name in taken else None
        for name in ("steps", "guidance")
    )
    scale = None if getattr(guidance, "parts", ()) else getattr(guidance, "scale", guidance)
    reads = not count and getattr(config, "text_encoder", None) is not None
    return Choices(
        _each_once(names) if count else (),
        reads,
        not count and not reads and hasattr(config, "text_encoder"),
        typing.get_args(fields["method"].annotation) if "method" in fields else (),
        getattr(own, "method", None),
        steps if isinstance(steps, int) else None,
        guidance is not None,
        float(scale) if isinstance(scale, int | float) else None,
    )


def _each_once(names: Sequence[str]) -> tuple[str, ...]:
    """Names by which classes are chosen: ImageNet calls two classes crane, and each must be drawn by its own."""
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({label})" for label, name in enumerate(names))
