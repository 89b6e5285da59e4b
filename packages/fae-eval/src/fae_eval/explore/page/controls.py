"""The fields that choose what a generator draws, and how they follow the generator that is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from fae_core.errors import FAEError
from fae_eval.explore.drawing import LONGEST_PROMPT, MOST_PICTURES, MOST_STEPS, Order, conditions
from fae_eval.explore.models import Choices, Models, choices_of
from fae_eval.explore.page.parts import number

EVERY = "every class"
_STEPS = 250  # that the slider goes to: the paper's


@dataclass(frozen=True)
class Controls:
    """Fields of one tab, and the models that they choose from."""

    models: Models
    generator: gr.Dropdown
    classes: gr.Dropdown
    prompt: gr.Textbox
    method: gr.Dropdown
    steps: gr.Slider
    guidance: gr.Number
    count: gr.Slider
    seed: gr.Number

    @property
    def fields(self) -> list[Any]:
        """The inputs of a handler, in the order that `order` takes them."""
        return [
            self.generator,
            self.classes,
            self.prompt,
            self.method,
            self.steps,
            self.guidance,
            self.count,
            self.seed,
        ]

    def order(
        self, name: str, wanted: str, prompt: str, method: str, steps: Any, guidance: Any, count: Any, seed: Any
    ) -> tuple[Any, Order]:
        """The generator and what it is to draw, as the fields say. Raises FAEError for a field out of range."""
        generator = self.models.generators.get(name)
        if generator is None:
            raise FAEError("choose a generator")
        choices, many = choices_of(generator), number(count, "number of pictures")
        if not 1 <= many <= MOST_PICTURES:
            raise FAEError(f"the number of pictures must lie between 1 and {MOST_PICTURES}, it is {many}")
        return generator, Order(
            conditions(choices, wish(choices, wanted, prompt), many),
            number(seed, "seed"),
            method or None if choices.methods else None,
            number(steps, "number of steps") if choices.steps is not None else None,
            float(guidance) if choices.guided and guidance is not None else None,
        )


def wish(choices: Choices, wanted: str | None, prompt: str | None) -> str:
    """What a generator is to draw: the prompt of one that reads prompts, else the class, "" for all in turn.

    Args:
        choices: Of the generator.
        wanted: The field of classes.
        prompt: The field of the prompt; line breaks count as spaces.

    Raises:
        FAEError: The generator reads prompts, and there is none.
    """
    if not choices.text:
        return "" if wanted == EVERY else wanted or ""
    words = (prompt or "").split()
    if not words:
        raise FAEError("say in the prompt what to draw")
    return " ".join(words)


def make_controls(models: Models, prefix: str, *, count: int = 4, one_class: bool = False) -> Controls:
    """The fields, in two rows.

    Args:
        models: What they choose from.
        prefix: Of the elements' ids.
        count: Of pictures, at first.
        one_class: Whether a class has to be chosen.
    """
    names = list(models.generators)
    first = choices_of(models.generators[names[0]])
    with gr.Row():
        generator = gr.Dropdown(names, value=names[0], label="Generator", elem_id=f"{prefix}-generator", min_width=140)
        shown = _shown(first, one_class)
        classes = gr.Dropdown(label="Class", elem_id=f"{prefix}-class", min_width=140, **shown["classes"])
        prompt = gr.Textbox(
            label="Prompt",
            elem_id=f"{prefix}-prompt",
            min_width=240,
            max_length=LONGEST_PROMPT,
            **shown["prompt"],
        )
        pictures = gr.Slider(
            1, MOST_PICTURES, value=count, step=1, label="Pictures", elem_id=f"{prefix}-count", min_width=140
        )
        seed = gr.Number(0, label="Seed", precision=0, elem_id=f"{prefix}-seed", min_width=100)
    with gr.Row():
        method = gr.Dropdown(label="Sampler", elem_id=f"{prefix}-method", min_width=140, **shown["method"])
        steps = gr.Slider(1, step=1, label="Steps", elem_id=f"{prefix}-steps", min_width=140, **shown["steps"])
        guidance = gr.Number(
            label="Guidance (1 = off)",
            placeholder="its own, in parts",
            step=0.1,
            elem_id=f"{prefix}-guidance",
            min_width=140,
            **shown["guidance"],
        )
    controls = Controls(models, generator, classes, prompt, method, steps, guidance, pictures, seed)

    def follow(name: str) -> list[Any]:
        """The fields of the generator that is chosen, with its own settings."""
        now = _shown(choices_of(models.generators[name]), one_class)
        return [gr.update(**now[field]) for field in ("classes", "prompt", "method", "steps", "guidance")]

    generator.change(follow, generator, [classes, prompt, method, steps, guidance], show_progress="hidden")
    return controls


def _shown(choices: Choices, one_class: bool) -> dict[str, dict[str, Any]]:
    """Values and visibility of the fields of a generator."""
    classes = [*([] if one_class else [EVERY]), *choices.classes]
    return {
        "classes": {"choices": classes, "value": classes[0] if classes else None, "visible": bool(choices.classes)},
        "prompt": {"visible": choices.text},  # what is in it stays
        "method": {"choices": list(choices.methods), "value": choices.method, "visible": bool(choices.methods)},
        "steps": {
            "value": choices.steps or 1,
            "maximum": min(MOST_STEPS, max(_STEPS, choices.steps or 1)),
            "visible": choices.steps is not None,
        },
        "guidance": {"value": choices.guidance, "visible": choices.guided},
    }
