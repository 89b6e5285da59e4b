"""Exponential moving average of weights, sharded like the weights themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Shadow copies of a module's trainable parameters, in fp32 or wider: at a decay of 0.9999 a step is too small for bfloat16.
    Buffers are not averaged: the module's own are used."""

    def __init__(self, module: nn.Module, decay: float, warmup: bool = False) -> None:
        self.decay, self.warmup = decay, warmup
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.shadow: dict[str, Tensor] = {
            name: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)
            for name, p in self._parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """shadow <- decay * shadow + (1 - decay) * weights, after the update `step` (0-based)."""
        shadows = [_local(t) for t in self.shadow.values()]
        live = [_local(p).to(shadow.dtype) for p, shadow in zip(self._parameters.values(), shadows, strict=True)]
        torch._foreach_lerp_(shadows, live, 1 - decay_at(self.decay, self.warmup, step))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the module computes with the averaged weights, rounded to its dtype."""
        live = [_local(p) for p in self._parameters.values()]
        held = [p.clone() for p in live]
        self._fill(live, [_local(t) for t in self.shadow.values()])
        try:
            yield
        finally:
            self._fill(live, held)

    @staticmethod
    @torch.no_grad()
    def _fill(targets: list[Tensor], values: list[Tensor]) -> None:
        for target, value in zip(targets, values, strict=True):
            target.copy_(value)


def decay_at(decay: float, warmup: bool, step: int) -> float:
    """The factor of the average in the update `step` (0-based)."""
    return min(decay, (1 + step) / (10 + step)) if warmup else decay


def share_of_start(decay: float, warmup: bool, steps: int) -> float:
    """How much of an average over `steps` updates is still the weights from before the first."""
    early = range(min(steps, 1000) if warmup else 0)  # of which 1e-19 is left after so many
    return math.prod(decay_at(decay, warmup, step) for step in early) * decay ** (steps - len(early))


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor."""
    return tensor.detach().to_local() if hasattr(tensor, "to_local") else tensor.detach()
