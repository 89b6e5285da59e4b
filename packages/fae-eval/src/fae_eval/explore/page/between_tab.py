"""The tab of the way between two pictures' latents, or between two noises of a generator."""

from __future__ import annotations

from typing import Any

import gradio as gr

from fae_core.errors import FAEError
from fae_eval.explore.drawing import MOST_PICTURES, Order, draw, noise_between
from fae_eval.explore.latents import between_pictures
from fae_eval.explore.models import Models
from fae_eval.explore.page.controls import make_controls
from fae_eval.explore.page.markup import figures, note
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
from fae_eval.explore.page.pictures_tab import Pictures, required
from fae_eval.explore.turns import Work
from fae_eval.explore.uploads import Picture


def between_tab(models: Models, work: Work, pictures: Pictures) -> None:
    """Frames between pictures A and B; with a generator, those between two noises."""
    noised = None
    with gr.Tabs():
        with gr.Tab("Two pictures", id="between-two-pictures"):
            gr.Markdown("Painted of latents on the straight line between those of A and B (tab *Pictures*).")
            with gr.Row():
                count = gr.Slider(
                    2, MOST_PICTURES, value=8, step=1, label="Pictures", elem_id="between-count", min_width=160
                )
            start = gr.Button("From A to B", variant="primary", elem_id="between-pictures")
        if models.generators:
            with gr.Tab("Two noises", id="between-two-noises"):
                noised = _noise_fields(models)
    status, shown = status_line("between-status"), place("between-shown")

    @guarded(status)
    def pictured(first: Picture | None, second: Picture | None, many: Any) -> Updates:
        a, b, many = required(first, "A").read, required(second, "B").read, _frames(many)
        yield {status: note("encoding and painting")}
        made = work.now(lambda: between_pictures(models.tokenizer, a, b, many, models.device))
        yield {status: note("from A to B"), shown: figures(list(zip(_shares(many), made, strict=True)))}

    start.click(pictured, [pictures.first, pictures.second, count], [status, shown], show_progress="hidden")
    if noised is not None:
        _noises(models, work, noised, status, shown)


def _noise_fields(models: Models) -> tuple[Any, ...]:
    """Fields and buttons of the way between two noises."""
    gr.Markdown("One class or prompt, two seeds, and noises on the arc between theirs, each as likely as any other.")
    controls = make_controls(models, "between", count=8, one_class=True)
    with gr.Row():
        last = gr.Number(1, label="Second seed", precision=0, elem_id="between-last", min_width=100)
        start = gr.Button("From seed to seed", variant="primary", elem_id="between-noises", min_width=160)
        stop = gr.Button("Stop", elem_id="between-stop", min_width=100)
    return controls, last, start, stop


def _noises(models: Models, work: Work, noised: tuple[Any, ...], status: gr.HTML, shown: gr.HTML) -> None:
    """Let the fields of `_noise_fields` draw."""
    controls, last, start, stop = noised

    @guarded(status)
    def drawing(request: gr.Request, second: Any, *fields: Any) -> Updates:
        generator, order = controls.order(*fields)
        many = _frames(len(order.conditions))
        ends = order.seed, Order(("",), number(second, "second seed")).seed
        noise = noise_between(generator.spec.shape, *ends, many)
        yield {status: note("waiting for a turn"), shown: ""}
        told = work.run(
            (visitor(request), "between"),
            lambda tell: draw(generator, models.tokenizer, order, tell, noise=noise),
        )
        yield from drawn_updates(
            told,
            status,
            lambda drawn: {
                status: note(f"from seed {ends[0]} to seed {ends[1]}"),
                shown: figures(list(zip(_shares(many), drawn.pictures, strict=True))),
            },
        )

    draws([start.click, controls.prompt.submit], drawing, [last, *controls.fields], [status, shown])
    stops(stop, work, "between")


def _frames(count: Any) -> int:
    """How many pictures. Raises FAEError for too few or many."""
    many = number(count, "number of pictures")
    if not 2 <= many <= MOST_PICTURES:
        raise FAEError(f"a way has between 2 and {MOST_PICTURES} pictures, not {many}")
    return many


def _shares(count: int) -> list[str]:
    """How much of the second end is in each picture."""
    return [f"{i / (count - 1):.0%}" for i in range(count)]
