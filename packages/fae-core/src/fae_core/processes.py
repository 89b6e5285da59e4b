"""Which processes work together, on which device each, and how they agree. Started by torchrun, by --processes, or alone."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from fae_core.errors import FAEError

_GPU = re.compile(r"cuda(?::(0|[1-9]\d{0,3}))?")
# How long processes wait for each other. torch's ten minutes (nccl) are too few where the first writes a large model or
# measures a preview while the others wait; a process that dies is noticed at once, by torchrun.
_PATIENCE = timedelta(hours=2)
_SETTLE_SECONDS = 0.2


@dataclass(frozen=True)
class Processes:
    """The process group as one process sees it. `rank` 0 writes files and speaks to the user."""

    rank: int
    world_size: int
    device: str

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def broadcast(self, value: object) -> object:
        """Rank 0's value on every process."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: object) -> list:
        """Every process's value in order of rank, on every process."""
        if self.world_size == 1:
            return [value]
        box: list = [None] * self.world_size
        dist.all_gather_object(box, value)
        return box

    def gather_rows(self, rows: Tensor) -> Tensor | None:
        """All processes' rows (n_i, ...), which may differ in number only, joined in order of rank, on rank 0's CPU; None elsewhere."""
        if self.world_size == 1:
            return rows.cpu()
        counts = self.gather(len(rows))
        # The collectives want equal shapes, and nccl wants them on its device.
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
    """The device asked for ("cpu", "cuda" or "cuda:N"); without one cuda where there is one, else cpu.

    Raises FAEError, one line, for any other name and for a GPU that torch does not see.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    device = str(device)
    if device == "cpu":
        return device
    found = _GPU.fullmatch(device)
    if found is None:
        raise FAEError(f"unknown device {device[:40]!r}; FAE works on cpu, cuda or cuda:N")
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen == 0:
        raise FAEError(f"device {device} was asked for, but torch sees no GPU; pass --device cpu")
    if int(found[1] or 0) >= seen:
        raise FAEError(f"device {device} was asked for, but the last GPU that torch sees is cuda:{seen - 1}")
    return device


@contextmanager
def processes(device: str | None = None) -> Iterator[Processes]:
    """Join the group that torchrun describes in the environment (or be alone), and leave it at the end.

    device: as `resolve_device` takes it. gloo serves the CPU, nccl the GPU.
    """
    kind = resolve_device(device)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes(0, 1, kind)
        return
    if kind == "cuda":
        kind = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(kind)
    owner = not dist.is_initialized()
    if owner:
        dist.init_process_group("nccl" if kind.startswith("cuda") else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), kind)
    finally:
        if owner:
            dist.destroy_process_group()
            # gloo's threads release the tensors of the last operation after it has returned. They need the interpreter's
            # lock for it, and abort the process (std::terminate) if the interpreter is shut down meanwhile. Sharded models
            # keep these threads alive, so they get the lock here.
            time.sleep(_SETTLE_SECONDS)
