"""The models that a run gives: model/ at its end, and one in exports/ for each checkpoint that is kept."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

import torch

from fae_core.files import is_empty, remove_leftovers, staged_folder
from fae_core.folders import RUN_CHECKPOINTS, RUN_EXPORTS, kept_model
from fae_core.models.checkpoints import damage, numbered
from fae_core.training.engine import Engine

log = logging.getLogger("fae")


def export(engine: Engine, target: Path) -> None:
    """Write the model as it is now, with averaged weights, whole or not at all. Every process calls it.

    Args:
        engine: what was trained.
        target: the model folder; an older one is replaced.
    """
    modules, stack = engine.final_modules()
    with stack:
        if engine.group.is_main:
            with staged_folder(target, overwrite=True) as staging, torch.no_grad():
                folder = staging / "export"
                folder.mkdir()
                engine.task.export(folder, modules)
                _lift(folder)
    engine.group.barrier()


def warn_of_late(milestones: dict[int, int | str], steps: int) -> None:
    """Log which of `keep_at` lie after the last step of a run, and are not kept."""
    late = ", ".join(f"{asked} (step {step})" for step, asked in milestones.items() if step > steps)
    if late:
        log.warning("not kept, after the last step %d: training.keep_at %s", steps, late)


class KeptModels:
    """The exports of the checkpoints that `training.keep_at` names. Every process calls each method.

    Args:
        engine: what is trained.
        run: the run folder.
        steps: those of `keep_at`.
    """

    def __init__(self, engine: Engine, run: Path, steps: Collection[int]) -> None:
        self.engine, self.run, self.steps = engine, run, steps

    def make(self, step: int) -> None:
        """Export the model after `step` updates, which the engine holds, if it is to be kept and is not there yet."""
        if step in self.steps and not self.engine.group.broadcast(self._is_there(step)):
            export(self.engine, self.run / RUN_EXPORTS / kept_model(step))

    def owed(self, before: int) -> list[Path]:
        """Whole checkpoints of earlier steps that were to be exported and were not, as after a kill.

        Args:
            before: the step from which the run goes on.
        """
        found: list[str] = []
        if self.engine.group.is_main:
            if (self.run / RUN_EXPORTS).is_dir():
                remove_leftovers(self.run / RUN_EXPORTS)
            for step, path in numbered(self.run / RUN_CHECKPOINTS).items():
                if step < before and step in self.steps and not self._is_there(step):
                    problem = damage(path)
                    if problem is None:
                        found.append(str(path))
                    else:
                        log.warning("checkpoint %s is damaged (%s) and cannot be exported", path, problem)
        return [Path(path) for path in self.engine.group.broadcast(found)]

    def _is_there(self, step: int) -> bool:
        """Whether an export exists; it is whole then."""
        folder = self.run / RUN_EXPORTS / kept_model(step)
        return folder.is_dir() and not is_empty(folder)


def _lift(folder: Path) -> None:
    """Move a folder's content one level up and remove it."""
    for path in list(folder.iterdir()):
        shutil.move(str(path), folder.parent / path.name)
    folder.rmdir()
