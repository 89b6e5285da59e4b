"""The tab of two generators of one latent space side by side, such as a diffusion model and a flow."""

from __future__ import annotations

from typing import Any

import gradio as gr

from fae_core.errors import FAEError
from fae_eval.explore.drawing import LONGEST_PROMPT, Drawn, Order, conditions, draw
from fae_eval.explore.models import Models, choices_of
from fae_eval.explore.page.controls import EVERY, wish
from fae_eval.explore.page.markup import figures, note, states
from fae_eval.explore.page.parts import (
    Updates,
    drawn_updates,
    draws,
    guarded,
    number,
    place,
    status_line,
    stops,
    visitor,
)
from fae_eval.explore.turns import Work

_COUNT = 4


def pair_tab(models: Models, work: Work) -> None:
    """Two generators, one class or prompt and one seed: both start at the same noise, with settings of their own."""
    names = list(models.generators)
    every = [choices_of(generator) for generator in models.generators.values()]
    classes = tuple(dict.fromkeys(name for choices in every for name in choices.classes))
    gr.Markdown("Both start at the same noise and paint with the same decoder. Each takes its own settings.")
    with gr.Row():
        sides = [
            gr.Dropdown(names, value=names[i], label=label, elem_id=f"pair-{label.lower()}", min_width=140)
            for i, label in enumerate(("Left", "Right"))
        ]
        wanted = gr.Dropdown(
            [EVERY, *classes], value=EVERY, label="Class", elem_id="pair-class", min_width=140, visible=bool(classes)
        )
        prompt = gr.Textbox(
            label="Prompt",
            elem_id="pair-prompt",
            min_width=240,
            max_length=LONGEST_PROMPT,
            visible=any(choices.text for choices in every),
        )
        seed = gr.Number(0, label="Seed", precision=0, elem_id="pair-seed", min_width=100)
    with gr.Row():
        start = gr.Button("Draw both", variant="primary", elem_id="pair-start", min_width=120)
        stop = gr.Button("Stop", elem_id="pair-stop", min_width=120)
    status = status_line("pair-status")
    with gr.Row():
        sides_shown = []
        for side in ("left", "right"):
            with gr.Column(min_width=280):
                sides_shown.append((place(f"pair-{side}-pictures"), place(f"pair-{side}-states")))

    @guarded(status)
    def drawing(request: gr.Request, left: str, right: str, which: str, said: str, start_at: Any) -> Updates:
        chosen, seed_number = (left, right), number(start_at, "seed")
        if not all(name in models.generators for name in chosen):
            raise FAEError("choose two generators")
        yield {status: note("waiting for a turn"), **{element: "" for pair in sides_shown for element in pair}}
        for name, (pictures, way) in zip(chosen, sides_shown, strict=True):
            generator = models.generators[name]
            choices = choices_of(generator)
            order = Order(conditions(choices, wish(choices, which, said), _COUNT), seed_number)
            titles = [condition or f"picture {i + 1}" for i, condition in enumerate(order.conditions)]

            def finished(drawn: Drawn, pictures=pictures, way=way, titles=titles, name=name) -> dict[Any, Any]:
                shown = figures(
                    [(f"{name}: {text}", image) for text, image in zip(titles, drawn.pictures, strict=True)]
                )
                return {status: note(f"{name}: drawn"), pictures: shown, way: states(drawn.states, titles)}

            told = work.run(
                (visitor(request), "pair"),
                lambda tell, generator=generator, order=order: draw(generator, models.tokenizer, order, tell),
            )
            yield from drawn_updates(told, status, finished, way, titles)
        yield {status: note(f"{left} on the left, {right} on the right; seed {seed_number}")}

    elements = [element for pair in sides_shown for element in pair]
    draws([start.click, prompt.submit], drawing, [*sides, wanted, prompt, seed], [status, *elements])
    stops(stop, work, "pair")
