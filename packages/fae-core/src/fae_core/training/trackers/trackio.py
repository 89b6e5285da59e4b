"""trackio: a local dashboard (`trackio show`), or a Space named by TRACKIO_SPACE_ID."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Trackio:
    """A Tracker, see `fae_core.training.tracking`."""

    module, requirement = "trackio", "fae-core[trackio]"

    def __init__(self, name: str, folder: Path, settings: dict[str, Any], start: int) -> None:
        import trackio  # pyright: ignore[reportMissingImports]  (an extra)

        project = os.environ.get("TRACKIO_PROJECT", "fae")
        self._run = trackio.init(
            project=project,
            name=name,
            config=settings,
            resume="allow" if start else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._image = trackio.Image

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, path: Path) -> None:
        self._run.log({"samples": self._image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()
