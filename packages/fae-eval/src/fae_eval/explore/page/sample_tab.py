"""The tab that draws pictures and shows how they form."""

from __future__ import annotations

from typing import Any

import gradio as gr

from fae_eval.explore.drawing import Drawn, draw
from fae_eval.explore.models import Models
from fae_eval.explore.page.controls import make_controls
from fae_eval.explore.page.markup import figures, note, states
from fae_eval.explore.page.parts import Updates, drawn_updates, draws, guarded, place, status_line, stops, visitor
from fae_eval.explore.turns import Work


def sample_tab(models: Models, work: Work) -> None:
    """Fields, the pictures, and the states on the way to them."""
    controls = make_controls(models, "sample")
    with gr.Row():
        start = gr.Button("Draw", variant="primary", elem_id="sample-start", min_width=120)
        stop = gr.Button("Stop", elem_id="sample-stop", min_width=120)
    status = status_line("sample-status")
    pictures = place("sample-pictures")
    gr.Markdown("How they form, from noise to picture:", elem_classes="fae-note")
    way = place("sample-states")

    @guarded(status)
    def drawing(request: gr.Request, *fields: Any) -> Updates:
        generator, order = controls.order(*fields)
        names = [condition or f"picture {i + 1}" for i, condition in enumerate(order.conditions)]

        def finished(drawn: Drawn) -> dict[Any, Any]:
            shown = figures(list(zip(names, drawn.pictures, strict=True)))
            return {status: note(f"drawn with seed {order.seed}"), pictures: shown, way: states(drawn.states, names)}

        yield {status: note("waiting for a turn"), pictures: "", way: ""}
        told = work.run((visitor(request), "sample"), lambda tell: draw(generator, models.tokenizer, order, tell))
        yield from drawn_updates(told, status, finished, way, names)

    draws([start.click, controls.prompt.submit], drawing, controls.fields, [status, pictures, way])
    stops(stop, work, "sample")
