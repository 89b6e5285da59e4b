"""One model over several processes: replicated (DistributedDataParallel) or sharded (FSDP2)."""

from __future__ import annotations

import copy
import inspect

import torch
from torch import Tensor, nn

from fae_core.processes import Processes


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
