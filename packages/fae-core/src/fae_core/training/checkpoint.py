"""Checkpoints that are whole or absent: sharded safetensors by torch.distributed.checkpoint, staged, hashed, renamed, rotated.

    checkpoints/step-00001000/   *.safetensors (weights, averages, optimiser moments)   state.json (step, counts, hashes of the rest and of itself)

torch's default checkpoint writer keeps its index in a pickle, so the safetensors writer is used instead: tensors from any
number of processes, reloadable at any other number, nothing unpickled.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

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
    """The checkpoints of one run. All methods are called by every process.

    keep: how many of the newest whole ones stay; keep_at: steps whose checkpoints stay besides.
    """

    def __init__(self, run: Path, group: Processes, keep: int, keep_at: Sequence[int] = ()) -> None:
        self.folder, self.group, self.keep, self.keep_at = run / RUN_CHECKPOINTS, group, keep, frozenset(keep_at)
        self._whole: set[int] = set()  # steps whose files were written or verified by this process

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint after `step` updates; `state` is JSON. Older ones beyond `keep` go once it is in place."""
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
                    dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(str(staging), save_distributed=True))
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
        """The newest complete checkpoint; a damaged one is named and passed over. The same on every process."""
        chosen = None
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
        """Fill `tensors` in place from a checkpoint and return its state. Raises InvalidFile for another model's."""
        state = read_state(path)
        if state["tensors"] != _signature(tensors):
            raise InvalidFile(
                f"{path} belongs to another model: {_first_difference(state['tensors'], _signature(tensors))}"
            )
        with quiet():
            dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(path)))
        return state

    def _prune(self, saved: int) -> None:
        """Remove what is older than the newest `keep` whole checkpoints, and damaged ones; never the one just saved."""
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
    """The system's own error behind torch's, which otherwise hides a full disk."""
    return next((cause for cause, _ in error.failures.values() if isinstance(cause, OSError)), error)


def _signature(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in sorted(tensors.items())}


def _first_difference(stored: dict[str, list[int]], wanted: dict[str, list[int]]) -> str:
    for name in sorted(stored.keys() | wanted.keys()):
        if stored.get(name) != wanted.get(name):
            return f"{name} is {stored.get(name, 'absent')} there and {wanted.get(name, 'absent')} here"
    return "no difference"


def optimizer_tensors(optimizer: torch.optim.AdamW, names: dict[Tensor, str]) -> Iterator[tuple[str, Tensor]]:
    """AdamW's moments by parameter name, created as zeros where no step was taken yet, so that loading can fill them."""
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
    # AdamW keeps the count beside the moments only when it updates in one fused kernel.
    return parameter.device if optimizer.defaults.get("fused") else torch.device("cpu")
