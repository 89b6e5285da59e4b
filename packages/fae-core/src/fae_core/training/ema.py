"""Exponential moving average of weights, sharded like the weights themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class WeightAverage:
    """Shadow copies of a module's trainable parameters. Buffers are not averaged: the module's own are used.

    The copies are fp32 or wider: at a decay of 0.9999 one step's change is below what bfloat16 resolves.

    Args:
        module: whose weights to average.
        decay: the share of the average that stays in each update, in [0, 1).
        warmup: start with the smaller decay (1 + step) / (10 + step).
    """

    def __init__(self, module: nn.Module, decay: float, warmup: bool = False) -> None:
        self.decay, self.warmup = decay, warmup
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.shadow: dict[str, Tensor] = {
            name: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)
            for name, p in self._parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """shadow <- decay * shadow + (1 - decay) * weights.

        Args:
            step: the update, counted from 0, that the weights have just taken.
        """
        shadows = [_local(t) for t in self.shadow.values()]
        live = [_local(p).to(shadow.dtype) for p, shadow in zip(self._parameters.values(), shadows, strict=True)]
        change = 1 - decay_at(self.decay, self.warmup, step)
        torch._foreach_lerp_(shadows, live, change)  # pyright: ignore[reportPrivateImportUsage]  # no public name

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A block in which the module computes with the averaged weights, rounded to its dtype."""
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
    """The factor of the average in one update.

    Args:
        decay: the factor without a warm-up.
        warmup: whether early updates use the smaller (1 + step) / (10 + step).
        step: the update, counted from 0.
    """
    return min(decay, (1 + step) / (10 + step)) if warmup else decay


def share_of_start(decay: float, warmup: bool, steps: int) -> float:
    """The weight that the initial parameters still have in an average after `steps` updates, in [0, 1].

    Args:
        decay: as in `decay_at`.
        warmup: as in `decay_at`.
        steps: how many updates were made.
    """
    early = range(min(steps, 1000) if warmup else 0)  # after so many, 1e-19 is left
    return math.prod(decay_at(decay, warmup, step) for step in early) * decay ** (steps - len(early))


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
