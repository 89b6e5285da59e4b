"""How a network is evaluated while sampling: as it is, in compiled blocks, or as CUDA graphs, with measured ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fae_core import ops
from fae_core.errors import FAEError
from fae_core.ops.compiling import compiles
from fae_core.processes import are_several
from fae_diffusion.guided_velocity import GuidedVelocity
from fae_diffusion.samplers.captured import SMALL, CapturedNetwork, is_plain
from fae_diffusion.samplers.config import Sampling

_REPAYS_COMPILING = 1000  # steps after which a run is taken to be long


class FastSampling(nn.Module):
    """What a network with `blocks` keeps from sample to sample, so that its evaluations are fast on their device.

    Attributes:
        evaluations: How many samples have passed through the network in `sample`, in all calls.
    """

    blocks: nn.ModuleList
    evaluations: float = 0
    _blocks_compiled = False
    _captured: CapturedNetwork | None = None
    _steps = 0  # of sampling, in all calls
    _tuned: frozenset[tuple[Any, ...]] = frozenset()  # cases of sampling whose ops were measured

    def _network(
        self, velocity: GuidedVelocity, noise: Tensor, settings: Sampling, bf16: bool, device: torch.device
    ) -> Any:
        """`velocity.model`, a method of this network, its blocks compiled or not; or the same as CUDA graphs."""
        graph, compile = settings.cuda_graph, settings.compile
        if graph is True and device.type != "cuda":
            raise FAEError(f"cuda_graph needs a model on cuda, this one is on {device}")
        ops.order_backends(device)
        rows = len(noise) * (1 if velocity.both is None else 2)
        small = rows * noise[0, 0].numel() <= SMALL
        self._steps += settings.steps
        if compile == "auto":
            often = self._steps - settings.steps >= _REPAYS_COMPILING
            compile = often and graph is not True and not (small and graph == "auto") and compiles("auto", device)
        if compile and not self._blocks_compiled:
            self._blocks_compiled = True
            for block in self.blocks:
                block.compile()
        if graph == "auto":
            graph = device.type == "cuda" and small and not self._blocks_compiled and is_plain(self)
        if not graph:
            return velocity.model
        kept = self._captured
        if kept is None or kept.bf16 != bf16:
            kept = self._captured = CapturedNetwork(self, velocity.model, bf16)
        kept.renew()
        return kept

    def _counted(self, network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A method of this network, or what stands for it, that counts evaluations; hooks do not see replayed ones."""

        def evaluated(z: Tensor, *rest: Any) -> Tensor:
            self.evaluations += len(z)
            return network(z, *rest)

        return evaluated

    def _tune(self, velocity: GuidedVelocity, z: Tensor, grid: Tensor | Sequence[float], bf16: bool) -> None:
        """Measure the ops of an evaluation on this device, once for each batch size, before anything is traced.

        Evaluations that are replayed as CUDA graphs are not measured: times would be those of launches, which they do
        without. Nor are those of adaptive methods, whose batches are single samples, and of several processes, which
        do not all call this (a preview is one process's) or as often: they follow what is kept.
        """
        case = (z.shape, velocity.both is None, bf16, self._blocks_compiled)
        if case in self._tuned or z.device.type != "cuda" or are_several():
            return
        self._tuned |= {case}
        # Guided and unguided times evaluate batches of two sizes.
        times = {velocity.guidance.scale_at(float(t)) == 1.0: float(t) for t in grid}

        def evaluate() -> None:
            for t in times.values():
                velocity.at(z, t)

        ops.tune(evaluate, training=False, compiled=self._blocks_compiled)
