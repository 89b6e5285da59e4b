"""Checkpoints that are whole or absent: sharded safetensors by torch.distributed.checkpoint, staged, hashed, renamed, rotated.

    checkpoints/step-00001000/   *.safetensors (weights, averages, optimiser moments)   state.json (step, counts, hashes)

torch's default checkpoint writer keeps its index in a pickle, so the safetensors writer is used instead: tensors from any
number of processes, reloadable at any other number, nothing unpickled.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

from fae_core.errors import CheckpointError
from fae_core.files import disk_errors, read_json, sha256_file, sync_folder, write_json
from fae_core.generator import CHECKPOINT_STATE
from fae_core.training.distributed import Processes

FOLDER = "checkpoints"
STATE_FILE = CHECKPOINT_STATE
log = logging.getLogger("fae")


class Checkpoints:
    """The checkpoints of one run. All methods are called by every process."""

    def __init__(self, run: Path, group: Processes, keep: int) -> None:
        self.folder, self.group, self.keep = run / FOLDER, group, keep

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint after `step` updates; `state` is JSON. Older ones beyond `keep` go once it is in place."""
        final = self.folder / f"step-{step:08d}"
        staging = self.folder / f".step-{step:08d}.tmp"
        with disk_errors(final):
            if self.group.is_main:
                shutil.rmtree(staging, ignore_errors=True)
                staging.mkdir(parents=True)
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
                write_json(staging / STATE_FILE, record)
                for path in staging.iterdir():
                    _sync_file(path)
                shutil.rmtree(final, ignore_errors=True)
                staging.rename(final)
                sync_folder(self.folder)
                self._prune()
            self.group.barrier()

    def latest(self) -> Path | None:
        """The newest complete checkpoint; a damaged one is named and passed over. The same on every process."""
        chosen = None
        if self.group.is_main:
            for path in sorted(self.folder.glob("step-*"), reverse=True):
                problem = damage(path)
                if problem is None:
                    chosen = str(path)
                    break
                log.warning("checkpoint %s is damaged (%s); trying the one before it", path, problem)
        chosen = self.group.broadcast(chosen)
        return Path(chosen) if chosen else None

    def load(self, path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Fill `tensors` in place from a checkpoint and return its state. Raises CheckpointError for another model's."""
        state = read_json(path / STATE_FILE)
        if state["tensors"] != _signature(tensors):
            raise CheckpointError(
                f"{path} belongs to another model: {_first_difference(state['tensors'], _signature(tensors))}"
            )
        with quiet():
            dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(path)))
        return state

    def _prune(self) -> None:
        for path in sorted(self.folder.glob("step-*"))[: -self.keep]:
            shutil.rmtree(path)
        for path in self.folder.glob(".step-*.tmp"):
            shutil.rmtree(path, ignore_errors=True)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        files = read_json(path / STATE_FILE)["files"]
    except (CheckpointError, KeyError) as error:
        return f"no usable {STATE_FILE}: {error}"
    for name, digest in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if sha256_file(path / name) != digest:
            return f"{name} does not match its checksum"
    return None


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


def _sync_file(path: Path) -> None:
    import os

    with path.open("rb") as file:
        os.fsync(file.fileno())


class quiet:
    """Silence torch's remarks about running without a process group and about its safetensors reader."""

    def __enter__(self) -> None:
        self._catch = warnings.catch_warnings()
        self._catch.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *error: object) -> None:
        self._catch.__exit__(*error)


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
