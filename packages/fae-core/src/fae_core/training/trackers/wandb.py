"""Weights & Biases. Where and as whom is decided by its own variables: WANDB_MODE, WANDB_ENTITY, WANDB_PROJECT."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any


class WandB:
    """A Tracker, see `fae_core.training.tracking`."""

    module, requirement = "wandb", "fae-core[wandb]"

    def __init__(self, name: str, folder: Path, settings: dict[str, Any], start: int) -> None:
        import wandb  # pyright: ignore[reportMissingImports]  (an extra)

        folder.mkdir(parents=True, exist_ok=True)
        # The program's arguments, its output and its code could hold secrets, and none of them is needed.
        quiet = wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_git=True,
            x_disable_meta=True,
            x_save_requirements=False,
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fae"),
            name=name,
            id=_identity(folder, start),
            dir=str(folder),
            config=settings,
            resume="allow",
            settings=quiet,
        )
        self._image = wandb.Image

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def picture(self, step: int, path: Path) -> None:
        self._run.log({"samples": self._image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()


def _identity(folder: Path, start: int) -> str:
    """A new name for a new run; that of before for one that goes on."""
    path = folder / "id.txt"
    if start == 0 or not path.is_file():
        path.write_text(uuid.uuid4().hex)
    return path.read_text().strip()
