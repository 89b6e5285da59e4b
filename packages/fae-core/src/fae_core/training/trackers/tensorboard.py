"""TensorBoard: event files in RUN/trackers/tensorboard. `tensorboard --logdir RUNS` shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image


class TensorBoard:
    """A Tracker, see `fae_core.training.tracking`."""

    module, requirement = "tensorboard", "fae-core[tensorboard]"

    def __init__(self, name: str, folder: Path, settings: dict[str, Any], start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted run showed beyond its last checkpoint is replaced.
        self._writer = SummaryWriter(str(folder), purge_step=start + 1 if start else None)
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        self._writer.add_text("settings", "".join(f"    {line}\n" for line in text.splitlines()), start)
        self._writer.flush()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, step: int, path: Path) -> None:
        with Image.open(path) as image:
            self._writer.add_image("samples", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()
