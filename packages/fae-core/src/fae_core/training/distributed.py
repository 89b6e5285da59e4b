"""Processes: who we are, how models are spread over them, and how they agree. Started by torchrun or by hand."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fae_core.device import resolve_device

# How long processes wait for each other. torch's ten minutes (nccl) are too few where the first writes a large model or
# measures a preview while the others wait; a process that dies is noticed at once, by torchrun.
_PATIENCE = timedelta(hours=2)


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


class PhaseModule(nn.Module):
    """The modules of one phase behind one forward, so that DistributedDataParallel sees every gradient."""

    def __init__(self, modules: dict[str, nn.Module], loss) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(modules)
        self.loss = loss

    def forward(self, *arguments):
        return self.loss(*arguments)


def replicate(phase: PhaseModule, group: Processes, *, deterministic: bool = False) -> nn.Module:
    """The phase under DistributedDataParallel where there is more than one process.

    deterministic: each step sums the gradients of all processes in the same order, so that a resumed run repeats one that was not
    interrupted to the bit, whatever the number of processes.
    """
    if group.world_size == 1:
        return phase
    ids = [torch.device(group.device)] if group.device.startswith("cuda") else None
    parallel = nn.parallel.DistributedDataParallel
    # torch 2.15 renamed it.
    known = inspect.signature(parallel).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    # After the first step DDP lays its buckets out anew, in the order in which gradients came; with more than two
    # processes that changes the order of sums, between the first step and the others. It does not where it looks for unused parameters.
    return parallel(phase, device_ids=ids, find_unused_parameters=deterministic, **{buffers: False})


def shard(module: nn.Module, group: Processes) -> None:
    """FSDP2 in place: each entry of `module.blocks`, then the rest."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(group.device.split(":")[0], (group.world_size,))
    for block in getattr(module, "blocks", ()):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def gathered(module: nn.Module, template: nn.Module) -> nn.Module:
    """A whole copy on the CPU of a sharded module. `template` is its meta-device twin from before sharding."""
    whole = copy.deepcopy(template).to_empty(device="cpu")
    with torch.no_grad():
        for (_, target), source in zip(whole.named_parameters(), module.parameters(), strict=True):
            target.copy_(full(source))
        for (_, target), source in zip(whole.named_buffers(), module.buffers(), strict=True):
            target.copy_(source)
    return whole.train(module.training)


def full(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all processes; any other tensor as it is."""
    return tensor.detach().full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach()
