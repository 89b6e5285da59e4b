"""Which processes work together, on which device each, and how they exchange values.

They are started by torchrun or by --processes; one that was started otherwise is alone.
"""

from __future__ import annotations

import atexit
import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.machine import available_threads as available_threads
from fae_core.machine import gpu_number, no_gpu

Value = TypeVar("Value")
# How long processes wait for each other. torch's ten minutes (nccl) are too few where the first writes a large model or
# measures a preview while the others wait. A process that dies is noticed by torchrun.
_TIMEOUT = timedelta(hours=2)
_SETTLE_SECONDS = 0.2
# Groups that were left. Freeing a group joins gloo's threads, which need the interpreter's lock to release the tensors
# of the last operation. torch gives the lock away while it frees what Python held last, but not what a model under
# DistributedDataParallel did: there both would wait for ever.
_ended: list[Any] = []


def are_several() -> bool:
    """Whether this process works together with others at the moment."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@dataclass(frozen=True)
class Processes:
    """The process group as one process sees it.

    Attributes:
        rank: this process's number; 0 writes files, logs and prints.
        world_size: how many processes there are.
        device: this process's: "cpu", "cuda" or "cuda:N".
    """

    rank: int
    world_size: int
    device: str

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files, logs and prints."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier()

    def broadcast(self, value: Value) -> Value:
        """Rank 0's value, on every process."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Value) -> list[Value]:
        """Every process's value in order of rank, on every process."""
        if self.world_size == 1:
            return [value]
        box: list[Any] = [None] * self.world_size
        dist.all_gather_object(box, value)
        return box

    def gather_rows(self, rows: Tensor) -> Tensor | None:
        """All processes' rows, joined in order of rank, on rank 0's CPU; None on the others.

        Args:
            rows: (n_i, ...), of the same shape and dtype on every process but for their number n_i.
        """
        if self.world_size == 1:
            return rows.cpu()
        counts = self.gather(len(rows))
        # Collectives need equal shapes, and nccl needs tensors on its device.
        padded = torch.zeros(max(counts), *rows.shape[1:], dtype=rows.dtype, device=self.device)
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts] if self.is_main else None
        dist.gather(padded, parts, dst=0)
        return torch.cat([part[:count].cpu() for part, count in zip(parts, counts, strict=True)]) if parts else None

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        if self.world_size == 1:
            return flag
        tensor = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.item() > 0

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The mean over processes of values that every process has under the same names."""
        if self.world_size == 1 or not values:
            return values
        tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return dict(zip(values, (tensor / self.world_size).tolist(), strict=True))


ALONE = Processes(0, 1, "cpu")


def resolve_device(device: str | torch.device | None = None) -> str:
    """The name of a device.

    Args:
        device: "cpu", "cuda" or "cuda:N"; without one, cuda where there is one, else cpu.

    Raises:
        FAEError: the name is another, or of a GPU that torch does not see.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    device = str(device)
    number = gpu_number(device)
    if number is None:
        return device
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen == 0:
        raise no_gpu(device)
    if number >= seen:
        raise FAEError(f"device {device} was asked for, but the last GPU that torch sees is cuda:{seen - 1}")
    return device


@cache
def _wait_for_gloo_at_exit() -> None:
    atexit.register(_wait_for_gloo)


def _wait_for_gloo() -> None:
    """Before the interpreter is shut down: wait for gloo's threads.

    They release the tensors of the last operation after it has returned, and need the interpreter's lock for it; once
    the interpreter is being shut down they abort the process instead (std::terminate). Ended groups are joined here; a
    group that the caller opened, or that a wrapped model still refers to, gets the lock for a moment.
    """
    _join_ended()
    time.sleep(_SETTLE_SECONDS)


def _join_ended() -> None:
    """Free the groups that have ended, once what refers to them is gone."""
    gc.collect()
    _ended.clear()


@contextmanager
def processes(device: str | None = None) -> Iterator[Processes]:
    """Join the process group that torchrun describes in the environment, if any, and leave it at the end.

    gloo is used on the CPU, nccl on GPUs, of which each process takes the one of its local rank.

    Args:
        device: as `resolve_device` takes it.
    """
    kind = resolve_device(device)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes(0, 1, kind)
        return
    if kind == "cuda":
        kind = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(kind)
    if not kind.startswith("cuda"):
        _wait_for_gloo_at_exit()  # also for a group that the caller opened
    owner = not dist.is_initialized()
    if owner:
        _join_ended()
        dist.init_process_group("nccl" if kind.startswith("cuda") else "gloo", timeout=_TIMEOUT)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), kind)
    finally:
        if owner:
            _ended.append(dist.group.WORLD)
            dist.destroy_process_group()
