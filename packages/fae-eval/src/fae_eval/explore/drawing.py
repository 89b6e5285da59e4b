"""Drawing from generators: pictures, the states on the way, and the way between two noises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fae_core.config.limits import LARGEST_SEED, SMALLEST_SEED
from fae_core.errors import FAEError
from fae_core.models.draw import draw_latents
from fae_core.protocols import SamplingStep
from fae_core.random import SlotRandom
from fae_eval.explore.models import Choices, choices_of
from fae_eval.explore.uploads import as_pictures

MOST_PICTURES = 16
MOST_STEPS = 1000
MOST_GUIDANCE = 20.0
LONGEST_PROMPT = 1000
STATES = 8  # that are shown, beside the noise


@dataclass(frozen=True)
class Order:
    """What to draw.

    Attributes:
        conditions: Names of classes or prompts, one for each picture; anything for a generator that takes neither.
        seed: Of the noise; picture i has slot i.
        method: The sampler; None for the generator's own.
        steps: Of the sampler; None for the generator's own.
        guidance: The scale, 1 = off; None for the generator's own.
    """

    conditions: tuple[str, ...]
    seed: int = 0
    method: str | None = None
    steps: int | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value, least, most in (
            ("number of pictures", len(self.conditions), 1, MOST_PICTURES),
            ("seed", self.seed, SMALLEST_SEED, LARGEST_SEED),
            ("number of steps", self.steps, 1, MOST_STEPS),
            ("guidance scale", self.guidance, 0, MOST_GUIDANCE),
        ):
            if value is not None and not least <= value <= most:
                raise FAEError(f"the {name} must lie between {least} and {most}, it is {str(value)[:40]}")
        if any(len(condition) > LONGEST_PROMPT for condition in self.conditions):
            raise FAEError(f"a prompt has at most {LONGEST_PROMPT} letters")

    def options(self, choices: Choices) -> dict[str, Any]:
        """Options of a generator's `sample`: of what is chosen, what it has.

        Args:
            choices: Of the generator.
        """
        chosen = {
            "method": self.method if choices.methods else None,
            "steps": self.steps if choices.steps is not None else None,
            "guidance": self.guidance if choices.guided else None,
        }
        return {name: value for name, value in chosen.items() if value is not None}

    def condition(self, choices: Choices) -> Any:
        """The argument of `sample`: prompts, or labels (B,) int64.

        Args:
            choices: Of the generator.

        Raises:
            FAEError: There is no such class, or the generator cannot read prompts.
        """
        if choices.embedded:
            raise FAEError(
                "this generator takes embeddings of text and its config names no text encoder: sample from it in Python"
            )
        if choices.text:
            return list(self.conditions)
        if not choices.classes:
            return torch.zeros(len(self.conditions), dtype=torch.int64, device="cpu")
        unknown = next((name for name in self.conditions if name not in choices.classes), None)
        if unknown is not None:
            raise FAEError(f"there is no class {unknown[:60]!r}")
        return torch.tensor([choices.classes.index(name) for name in self.conditions], device="cpu")


@dataclass(frozen=True)
class Way:
    """How far a drawing is.

    Attributes:
        done: Share of the steps that are done.
        name: Of the place.
        states: (name, pictures uint8 (B, H, W, 3)) of the states so far that are shown, the noise first.
    """

    done: float
    name: str
    states: tuple[tuple[str, list[np.ndarray]], ...]


@dataclass(frozen=True)
class Drawn:
    """Pictures, uint8 (H, W, 3) each, and the states on the way as in `Way`, the last of which are the pictures."""

    pictures: list[np.ndarray]
    states: tuple[tuple[str, list[np.ndarray]], ...]


def conditions(choices: Choices, wanted: str, count: int) -> tuple[str, ...]:
    """A condition for each of some pictures.

    Args:
        choices: Of the generator.
        wanted: A class or a prompt; "" stands for all classes in turn.
        count: How many pictures.
    """
    if wanted or not choices.classes:
        return (wanted,) * count
    return tuple(choices.classes[i % len(choices.classes)] for i in range(count))


def draw(
    generator: Any,
    decoder: Any,
    order: Order,
    tell: Callable[[Way], None] | None = None,
    *,
    noise: Tensor | None = None,
) -> Drawn:
    """Pictures of a generator.

    Args:
        generator: What to draw from.
        decoder: What paints its latents.
        order: What to draw.
        tell: Called at every step of a generator that can be watched; an exception that it raises ends the drawing.
        noise: Where to start, (B, C, h, w); None: of the order's seed.

    Raises:
        FAEError: An option or a class is unknown, or the samples are not finite.
    """
    choices, states = choices_of(generator), []

    def paint(z: Tensor) -> list[np.ndarray]:
        with torch.inference_mode():
            return as_pictures(decoder.decode(z.float()))

    def observe(step: SamplingStep) -> None:
        if step.z is not None and step.done >= len(states) / STATES:
            states.append((step.name, paint(step.z)))
        if tell is not None:
            tell(Way(step.done, step.name, tuple(states)))

    # Frames of one way share a slot, so that nothing but the noise differs between them.
    slots = range(len(order.conditions)) if noise is None else [0] * len(order.conditions)
    if choices.text and tell is not None:  # reading a text encoder takes a while, once
        tell(Way(0.0, "reading the prompt", ()))
    random = SlotRandom(order.seed, slots)
    z = draw_latents(generator, order.condition(choices), random, order.options(choices), noise=noise, observe=observe)
    pictures = paint(z)
    if not states or not np.array_equal(states[-1][1], pictures):  # a flow takes the noise of its training away
        states.append(("result", pictures))
    return Drawn(pictures, tuple(states))


def noise_between(shape: Sequence[int], first_seed: int, second_seed: int, count: int) -> Tensor:
    """Noises on the way from one to another, which are as likely as any: the weights' squares add up to 1.

    Args:
        shape: (C, h, w).
        first_seed: Whose picture 0 starts at the first noise.
        second_seed: The same of the last one.
        count: How many noises, the ends among them.

    Returns:
        (count, C, h, w).
    """
    ends = [SlotRandom(seed, [0]).normal(shape, "noise") for seed in (first_seed, second_seed)]
    angle = torch.linspace(0, torch.pi / 2, count, device="cpu").view(-1, 1, 1, 1)
    weights = angle.cos(), angle.sin()
    between = weights[0] * ends[0] + weights[1] * ends[1]
    between[0], between[-1] = ends[0][0], ends[1][0]
    return between
