"""Checkpoints that are whole or absent: sharded safetensors, staged, hashed, renamed, rotated.

    checkpoints/step-00001000/
        *.safetensors   weights, averages, optimiser moments
        state.json      step, counts, hashes of the other files and of itself

torch.distributed.checkpoint writes them. Its default writer keeps its index in a pickle, so its safetensors writer is
used: tensors from any number of processes, reloadable at any other number, nothing unpickled.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from fae_core import folders
from fae_core.errors import InvalidFile
from fae_core.files import (
    disk_errors,
    remove_folder,
    remove_leftovers,
    replace_folder,
    sha256_file,
    sync_folder,
    write_json,
)
from fae_core.folders import CHECKPOINT_STATE, RUN_CHECKPOINTS
from fae_core.models.checkpoints import damage, numbered, quiet, read_state
from fae_core.processes import Processes

log = logging.getLogger("fae")


class Checkpoints:
    """The checkpoints of one run. Every process calls each method.

    Args:
        run: the run folder.
        group: the processes of the run.
        keep: how many of the newest whole checkpoints stay.
        keep_at: steps whose checkpoints stay as well.
    """

    def __init__(self, run: Path, group: Processes, keep: int, keep_at: Collection[int] = ()) -> None:
        self.folder, self.group, self.keep, self.keep_at = run / RUN_CHECKPOINTS, group, keep, frozenset(keep_at)
        self._whole: set[int] = set()  # steps whose files were written or verified by this process

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint. Older ones beyond `keep` are removed once it is in place.

        Args:
            step: how many updates were made.
            tensors: what the checkpoint holds, by name.
            state: anything else, as JSON.

        Raises:
            FAEError: the disk is full or cannot be written.
        """
        final = self.folder / folders.checkpoint(step)
        staging = self.folder / f".{final.name}.new.tmp"
        with disk_errors(final):
            if self.group.is_main:
                self.folder.mkdir(parents=True, exist_ok=True)
                remove_leftovers(self.folder)
                staging.mkdir()
            self.group.barrier()
            try:
                with quiet():
                    save(tensors, storage_writer=HuggingFaceStorageWriter(str(staging), save_distributed=True))
            except CheckpointException as error:
                if self.group.is_main:  # a full disk needs its space back
                    shutil.rmtree(staging, ignore_errors=True)
                raise _cause(error) from None
            self.group.barrier()
            if self.group.is_main:
                files = {path.name: sha256_file(path) for path in sorted(staging.glob("*.safetensors"))}
                record = {**state, "step": step, "tensors": _signature(tensors), "files": files}
                write_json(staging / CHECKPOINT_STATE, record, seal=True)
                for path in (*staging.iterdir(), staging):
                    sync_folder(path)
                replace_folder(staging, final)
                self._whole.add(step)
                self._prune(step)
            self.group.barrier()

    def latest(self) -> Path | None:
        """The newest whole checkpoint, the same on every process. A damaged one is named in the log and skipped."""
        chosen: str | None = None
        if self.group.is_main and self.folder.is_dir():
            with disk_errors(self.folder):
                remove_leftovers(self.folder)
            for step, path in reversed(numbered(self.folder).items()):
                problem = damage(path)
                if problem is None:
                    self._whole.add(step)
                    chosen = str(path)
                    break
                log.warning("checkpoint %s is damaged (%s); trying the one before it", path, problem)
        chosen = self.group.broadcast(chosen)
        return Path(chosen) if chosen else None

    def load(self, path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Fill tensors in place from a checkpoint.

        Args:
            path: the checkpoint's folder.
            tensors: what to fill, by the names under which it was saved.

        Returns:
            The state that was saved with it.

        Raises:
            InvalidFile: the checkpoint is damaged or belongs to another model.
        """
        state = read_state(path)
        if state["tensors"] != _signature(tensors):
            raise InvalidFile(
                f"{path} belongs to another model: {_first_difference(state['tensors'], _signature(tensors))}"
            )
        with quiet():
            load(tensors, storage_reader=HuggingFaceStorageReader(str(path)))
        return state

    def _prune(self, saved: int) -> None:
        """Remove damaged checkpoints and all but the newest `keep` whole ones, but not the one just saved."""
        whole = 0
        for step, path in reversed(numbered(self.folder).items()):
            fine = step in self._whole or whole >= self.keep
            problem = None if fine else damage(path)
            if problem is None and whole < self.keep:
                self._whole.add(step)
                whole += 1
            elif step != saved and step not in self.keep_at:
                if problem is not None:
                    log.warning("checkpoint %s is damaged (%s) and removed", path, problem)
                remove_folder(path)


def _cause(error: CheckpointException) -> BaseException:
    """The system's own error behind torch's, which would hide a full disk."""
    return next((cause for cause, _ in error.failures.values() if isinstance(cause, OSError)), error)


def _signature(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    """Shapes by name."""
    return {name: list(tensor.shape) for name, tensor in sorted(tensors.items())}


def _first_difference(stored: dict[str, list[int]], wanted: dict[str, list[int]]) -> str:
    """The first name under which two signatures differ, in words."""
    for name in sorted(stored.keys() | wanted.keys()):
        if stored.get(name) != wanted.get(name):
            return f"{name} is {stored.get(name, 'absent')} there and {wanted.get(name, 'absent')} here"
    return "no difference"


def optimizer_tensors(optimizer: torch.optim.AdamW, names: dict[Tensor, str]) -> Iterator[tuple[str, Tensor]]:
    """AdamW's moments by parameter name, created as zeros before the first step, so that loading can fill them.

    Args:
        optimizer: whose moments.
        names: the name of each of its parameters.

    Returns:
        Pairs of a name ("PARAMETER/step", "/exp_avg", "/exp_avg_sq") and the moment itself, not a copy.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=_step_device(optimizer, parameter))
                state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            for key in ("step", "exp_avg", "exp_avg_sq"):
                yield f"{names[parameter]}/{key}", state[key]


def _step_device(optimizer: torch.optim.AdamW, parameter: Tensor) -> torch.device:
    """Where AdamW keeps its step count: beside the moments only when it updates in one fused kernel."""
    return parameter.device if optimizer.defaults.get("fused") else torch.device("cpu")
