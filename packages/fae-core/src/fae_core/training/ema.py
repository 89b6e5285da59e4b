"""Exponential moving average of weights, sharded like the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Shadow copies of a module's trainable parameters. Buffers are not averaged: the module's own are used."""

    def __init__(self, module: nn.Module, decay: float, warmup: bool = False) -> None:
        self.decay, self.warmup = decay, warmup
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.shadow: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """shadow <- decay * shadow + (1 - decay) * weights, after the update `step` (0-based)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        shadows = [_local(t) for t in self.shadow.values()]
        torch._foreach_lerp_(shadows, [_local(p) for p in self._parameters.values()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the module computes with the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            live, shadow = _local(parameter), _local(self.shadow[name])
            held = live.clone()
            live.copy_(shadow)
            shadow.copy_(held)


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor."""
    return tensor.detach().to_local() if hasattr(tensor, "to_local") else tensor.detach()
