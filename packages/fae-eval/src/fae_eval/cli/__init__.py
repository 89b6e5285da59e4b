"""`fae eval ...`: measure, draw, report. Heavy modules are imported inside the commands, so that help is fast."""

from __future__ import annotations

import typer

from fae_eval.cli.coco import coco
from fae_eval.cli.compare import compare
from fae_eval.cli.convergence import convergence
from fae_eval.cli.curves import curves
from fae_eval.cli.guidance_search import guidance_search
from fae_eval.cli.measure import frechet, generation, pack, reconstruction
from fae_eval.cli.pictures import matching, pca, similarity
from fae_eval.cli.probe import probe
from fae_eval.cli.report import report
from fae_eval.cli.sampling_grid import sampling_grid
from fae_eval.cli.text import clip_score, retrieval

app = typer.Typer(
    help="Measure samples and reconstructions, draw what latents keep, write reports.",
    no_args_is_help=True,
    add_completion=False,
)
_COMMANDS = (
    generation,
    convergence,
    compare,
    curves,
    frechet,
    guidance_search,
    sampling_grid,
    clip_score,
    retrieval,
    similarity,
    matching,
    pca,
    probe,
    report,
    pack,
    coco,
)
for command in _COMMANDS:
    app.command()(command)
app.command(deprecated=True)(reconstruction)

__all__ = ["app"]
