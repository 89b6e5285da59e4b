"""The tab of two pictures: reconstruction and its errors, patches that are clicked, principal components as colours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from fae_core.errors import FAEError
from fae_core.images import ImageSource
from fae_eval.explore.drawing import Drawn, Order, conditions, draw
from fae_eval.explore.latents import enlarged, rebuild, rebuilt_pictures
from fae_eval.explore.models import Models, choices_of
from fae_eval.explore.page.markup import Shown, figures, note, values
from fae_eval.explore.page.parts import Updates, drawn_updates, draws, guarded, place, status_line, stops, visitor
from fae_eval.explore.patches import Tokens, similarities, similarity_pictures
from fae_eval.explore.turns import Work
from fae_eval.explore.uploads import Picture, as_batch, cut, drawn_picture, read_picture
from fae_eval.figures.pca import component_colors

_SIDE = 512  # pixels of a picture that is shown to be clicked


@dataclass(frozen=True)
class Pictures:
    """The two pictures of a visitor: states that hold a `Picture` or None."""

    first: gr.State
    second: gr.State


@dataclass(frozen=True)
class Slot:
    """The elements of one picture."""

    name: str
    held: gr.State
    shown: gr.Image
    upload: gr.UploadButton
    drawn: gr.Button
    following: gr.Button


def pictures_tab(models: Models, work: Work, source: ImageSource | None) -> Pictures:
    """The pictures above, and what is made of them below.

    Args:
        models: What sees them.
        work: Whose turn it is.
        source: Images that are offered beside uploads; None for none.
    """
    tokens = Tokens(models.tokenizer, models.device)
    with gr.Row():
        first = _slot("A", models, source)
        second = _slot("B", models, source)
    stop = gr.Button("Stop drawing", elem_id="pictures-stop", size="sm", visible=_draws(models))
    status = status_line("pictures-status")
    stops(stop, work, "picture")
    for slot in (first, second):
        _filled(slot, models, work, source, status)
    with gr.Tabs() as views:
        if models.paints:
            with gr.Tab("Reconstruction", id="reconstruction"):
                _reconstruction(models, work, (first, second), status)
        if models.sees:
            with gr.Tab("Patches", id="patches"):
                gr.Markdown(
                    "Click on a patch of picture A or B above. Bright patches are like it: in the features, in the "
                    "latents and in the features rebuilt from these. Below, the same patch in the other picture; its "
                    "three best matches are outlined."
                )
                similar = place("patches-shown")
                _clicked(first, second, tokens, work, (status, similar, views))
                _clicked(second, first, tokens, work, (status, similar, views))
            with gr.Tab("Colours", id="colours"):
                _colours(models, work, (first, second), status)
    return Pictures(first.held, second.held)


def _slot(name: str, models: Models, source: ImageSource | None) -> Slot:
    """The elements of a picture."""
    with gr.Column(min_width=150):
        held = gr.State(None)
        shown = gr.Image(
            label=f"Picture {name}",
            elem_id=f"picture-{name}",
            elem_classes="fae-picture",
            interactive=False,
            format="png",
            type="pil",
            buttons=["fullscreen"],
            min_width=140,
        )
        with gr.Row():
            # Of every file type: what is taken, the readers of data sets decide.
            upload = gr.UploadButton("Upload", type="filepath", elem_id=f"upload-{name}", min_width=70, size="sm")
            drawn = gr.Button("Draw one", elem_id=f"draw-{name}", min_width=70, size="sm", visible=_draws(models))
            following = gr.Button(
                "Next of the data", elem_id=f"next-{name}", min_width=70, size="sm", visible=source is not None
            )
    return Slot(name, held, shown, upload, drawn, following)


def _draws(models: Models) -> bool:
    """Whether a picture can be drawn without a word: by a generator that needs no prompt."""
    return models.paints and any(not choices_of(each).text for each in models.generators.values())


def _filled(slot: Slot, models: Models, work: Work, source: ImageSource | None, status: gr.HTML) -> None:
    """Let a picture be uploaded, drawn, or taken from the data."""
    outputs = [slot.held, slot.shown, status]

    def put(picture: Picture, said: str) -> dict[Any, Any]:
        return {slot.held: picture, slot.shown: enlarged(picture.read, _SIDE), status: note(said)}

    @guarded(status)
    def uploaded(file: str) -> Updates:
        name = Path(file).name
        picture = read_picture(Path(file), models.tokenizer, name)
        yield put(picture, f"picture {slot.name}: {name}, its centre as it is encoded")

    count = gr.State(0)

    @guarded(status)
    def drawn(request: gr.Request, before: int) -> Updates:
        generator = next(each for each in models.generators.values() if not choices_of(each).text)
        seed = 2 * before + (slot.name == "B")
        choices = choices_of(generator)
        of_class = choices.classes[seed % len(choices.classes)] if choices.classes else ""
        order = Order(conditions(choices, of_class, 1), seed)

        def finished(drawn: Drawn) -> dict[Any, Any]:
            said = f"picture {slot.name}: {order.conditions[0] or 'drawn'}, seed {seed}"
            return {**put(drawn_picture(drawn.pictures[0], models.tokenizer), said), count: before + 1}

        told = work.run(
            (visitor(request), "picture", slot.name), lambda tell: draw(generator, models.tokenizer, order, tell)
        )
        yield from drawn_updates(told, status, finished)

    position = gr.State(0)

    @guarded(status)
    def following(before: int) -> Updates:
        assert source is not None  # else there is no button
        index = (2 * before + (slot.name == "B")) % len(source)
        yield {position: before + 1}
        yield put(cut(source.read(index), models.tokenizer), f"picture {slot.name}: image {index} of the data")

    slot.upload.upload(uploaded, slot.upload, outputs, show_progress="hidden")
    draws([slot.drawn.click], drawn, [count], [*outputs, count])
    slot.following.click(following, position, [*outputs, position], show_progress="hidden")


def _reconstruction(models: Models, work: Work, slots: tuple[Slot, Slot], status: gr.HTML) -> None:
    """A button, the picture beside what is painted of its latents, the errors as maps and numbers."""
    with gr.Row():
        buttons = [
            gr.Button(f"Reconstruct {slot.name}", elem_id=f"reconstruct-{slot.name}", variant="primary", min_width=120)
            for slot in slots
        ]
    shown = place("reconstruction-shown")

    @guarded(status)
    def rebuilt(held: Picture | None) -> Updates:
        picture = required(held, "A or B")
        yield {status: note("encoding and painting")}
        found = work.now(lambda: rebuild(models.tokenizer, picture, models.device))
        yield {status: note("reconstructed"), shown: figures(rebuilt_pictures(found)) + values(found.values)}

    for button, slot in zip(buttons, slots, strict=True):
        button.click(rebuilt, slot.held, [status, shown], show_progress="hidden")


def _clicked(slot: Slot, other: Slot, tokens: Tokens, work: Work, outputs: tuple[Any, Any, Any]) -> None:
    """Let a click on one picture show how similar all patches are to the one that is clicked."""
    status, similar, views = outputs

    @guarded(status)
    def clicked(held: Picture | None, others: Picture | None, where: gr.SelectData) -> Updates:
        yield {status: note("comparing patches")}
        picture = required(held, slot.name).read
        width, height = enlarged(picture, _SIDE).size
        x, y = where.index
        spaces = work.now(lambda: tokens.of(picture))
        beside = None if others is None else others.read
        second = None if beside is None else work.now(lambda: tokens.of(beside))
        found = similarities(spaces, second, min(y / height, 1.0), min(x / width, 1.0))
        row, column = next(iter(found.values())).query
        said = f"patch of picture {slot.name}: row {row + 1}, column {column + 1}. "
        said += f"Below, picture {other.name} with its best matches" if beside is not None else ""
        yield {
            status: note(said),
            similar: figures(similarity_pictures(picture, beside, found), columns=len(found)),
            views: gr.Tabs(selected="patches"),
        }

    slot.shown.select(clicked, [slot.held, other.held], [status, similar, views], show_progress="hidden")


def _colours(models: Models, work: Work, slots: tuple[Slot, Slot], status: gr.HTML) -> None:
    """A button, and the three strongest directions of each space as red, green and blue."""
    button = gr.Button("Show the colours of A and B", elem_id="colours-start", variant="primary")
    shown = place("colours-shown")

    @guarded(status)
    def coloured(first: Picture | None, second: Picture | None) -> Updates:
        held = {slot.name: each.read for slot, each in zip(slots, (first, second), strict=True) if each is not None}
        if not held:
            required(None, "A or B")
        yield {status: note("finding components")}
        batch = as_batch(list(held.values()), models.device)
        colors, shares = work.now(lambda: component_colors(models.tokenizer, batch))
        items: list[Shown] = []
        for i, (name, picture) in enumerate(held.items()):
            items += [(f"picture {name}", picture), *((space, pixels[i]) for space, pixels in colors.items())]
        said = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        yield {
            status: note(f"share of the variance in three components: {said}"),
            shown: figures(items, columns=1 + len(colors)),
        }

    button.click(coloured, [slot.held for slot in slots], [status, shown], show_progress="hidden")


def required(held: Picture | None, name: str) -> Picture:
    """A picture that is needed. Raises FAEError where there is none yet."""
    if held is None:
        raise FAEError(f"there is no picture {name} yet: upload one, or draw one")
    return held
