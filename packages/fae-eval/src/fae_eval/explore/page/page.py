"""The page: a heading, and a tab for each thing that the models can show."""

from __future__ import annotations

import gradio as gr
from gradio.themes import Soft
from gradio.themes.utils import fonts

from fae_core.images import ImageSource
from fae_eval.explore.models import Models
from fae_eval.explore.page.between_tab import between_tab
from fae_eval.explore.page.pair_tab import pair_tab
from fae_eval.explore.page.parts import visitor
from fae_eval.explore.page.pictures_tab import pictures_tab
from fae_eval.explore.page.sample_tab import sample_tab
from fae_eval.explore.turns import Work

AT_ONCE = 32  # visitors whose requests are taken at once; the models themselves are used in turn
MOST_WAITING = 128
_KEPT_SECONDS = 3600  # of pictures on disk


def make_page(models: Models, source: ImageSource | None = None) -> gr.Blocks:
    """The page of some models.

    Args:
        models: What is explored.
        source: Images that are offered beside uploads.
    """
    work = Work()
    with gr.Blocks(title=f"FAE: {models.title}", analytics_enabled=False, delete_cache=(600, _KEPT_SECONDS)) as page:
        gr.Markdown(f"## FAE explorer: {models.title}\n{models.facts()}", elem_id="heading")
        with gr.Tabs():
            if models.generators and models.paints:
                with gr.Tab("Sample", id="sample"):
                    sample_tab(models, work)
            with gr.Tab("Pictures", id="pictures"):
                pictures = pictures_tab(models, work, source)
            if models.paints:
                with gr.Tab("Interpolate", id="between"):
                    between_tab(models, work, pictures)
            with gr.Tab("Side by side", id="pair", visible=models.paints):
                if len(models.generators) > 1 and models.paints:
                    pair_tab(models, work)
                else:
                    gr.Markdown(
                        "This needs two generators of one latent space, such as those of `fae demo`: "
                        "`fae explore --model runs/demo`, or a second `--generator`."
                    )

        def leave(request: gr.Request) -> None:
            work.leave(visitor(request))

        page.unload(leave)
    page.queue(default_concurrency_limit=AT_ONCE, max_size=MOST_WAITING)
    return page


def theme() -> Soft:
    """Fonts of the visitor's machine alone: none is fetched from elsewhere."""
    return Soft(
        font=[fonts.Font("system-ui"), fonts.Font("sans-serif")],
        font_mono=[fonts.Font("ui-monospace"), fonts.Font("monospace")],
    )
