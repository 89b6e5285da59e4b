"""One model over several processes: replicated (DistributedDataParallel) or sharded (FSDP2)."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fae_core.processes import Processes
from fae_core.random import SlotRandom
from fae_core.training.task import Batch


class PhaseModule(nn.Module):
    """The modules of one phase behind one forward, so that DistributedDataParallel sees every gradient.

    Args:
        modules: what the phase trains, by name.
        loss: the phase's loss, which calls them.
    """

    def __init__(self, modules: dict[str, nn.Module], loss: Callable[[Batch, SlotRandom], dict[str, Tensor]]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(modules)
        self.loss = loss

    def forward(self, batch: Batch, random: SlotRandom) -> dict[str, Tensor]:
        """The loss's terms."""
        return self.loss(batch, random)


def replicate(phase: PhaseModule, group: Processes, *, deterministic: bool = False) -> nn.Module:
    """The phase under DistributedDataParallel where there is more than one process, else as it is.

    Args:
        phase: what one optimiser updates.
        group: the processes that each hold a copy.
        deterministic: sum gradients in one order in all steps, so that resuming is exact at any number of processes.
    """
    if group.world_size == 1:
        return phase
    ids = [torch.device(group.device)] if group.device.startswith("cuda") else None
    parallel = nn.parallel.DistributedDataParallel
    renamed = "forward_sync_buffers" in inspect.signature(parallel).parameters  # since torch 2.15
    options: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    # After the first step DDP lays its buckets out again, in the order in which gradients came. With more than two
    # processes that changes the order of sums from the first step to the others, but not where it looks for unused
    # parameters.
    return parallel(phase, device_ids=ids, find_unused_parameters=deterministic, **options)


def shard(module: nn.Module, group: Processes) -> None:
    """Shard a module in place with FSDP2: each entry of `module.blocks`, then the rest.

    Args:
        module: what to shard.
        group: the processes that each hold a part.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(group.device.split(":")[0], (group.world_size,))
    for block in getattr(module, "blocks", ()):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def gathered(module: nn.Module, template: nn.Module) -> nn.Module:
    """A whole copy of a sharded module, on the CPU. Every process calls it.

    Args:
        module: the sharded module.
        template: a copy of it on the meta device, made before it was sharded.
    """
    whole = copy.deepcopy(template).to_empty(device="cpu")
    with torch.no_grad():
        for (_, target), source in zip(whole.named_parameters(), module.parameters(), strict=True):
            target.copy_(full(source))
        for (_, target), source in zip(whole.named_buffers(), module.buffers(), strict=True):
            target.copy_(source)
    return whole.train(module.training)


def full(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all processes; any other tensor as it is."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
