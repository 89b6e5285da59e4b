"""Options that several commands share, so that one thing has one name everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", help="Folder to write; must be new unless --overwrite or --resume.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output folder.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue where an interrupted call stopped.")]
Seed = Annotated[int, typer.Option("--seed", help="Fixes every random choice.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu or cuda; cuda where there is one.")]
Processes = Annotated[int, typer.Option("--processes", min=1, help="Processes on this machine (torchrun for several).")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Samples at a time; changes speed, not results.")]
Config = Annotated[Path | None, typer.Option("--config", help="YAML file with model and training sections.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, e.g. training.steps=500.")
]
Latents = Annotated[Path | None, typer.Option("--latents", help="Latent store, as `fae encode` writes it.")]
LiveData = Annotated[
    str | None, typer.Option("--data", help="Instead of --latents: images, encoded in every step (with --tokenizer).")
]
LiveTokenizer = Annotated[
    str | None, typer.Option("--tokenizer", help="What encodes --data: a run or model folder, or hub id.")
]
