"""A network's evaluations while sampling, as CUDA graphs.

Under autocast every linear layer casts its weights, which the cast of a graph would repeat in every step, and a cast
that is kept outside would be freed under the graph. So the graph reads casts of its own, which are renewed from the
weights before each use: numbers are those of autocast.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fae_core.ops.graphs import Capture, Captured
from fae_core.ops.projections import is_hooked

SMALL = 8192
"""Positions of latents, over a batch with both conditions, up to which launches take longer than the work (an H200)."""


class CapturedNetwork:
    """velocity(z, t, condition) of a network, replayed where `condition` consists of tensors.

    Args:
        network: The network, on its device.
        velocity: Its method that is captured.
        bf16: Whether it runs under autocast to bf16.
        capture: As for `Captured`.
    """

    def __init__(
        self,
        network: nn.Module,
        velocity: Callable[..., Tensor],
        bf16: bool,
        capture: Capture | None = None,
    ) -> None:
        self._network, self._velocity, self.bf16 = network, velocity, bf16
        self._kind = next(network.parameters()).device.type
        self._addresses: tuple[int, ...] = ()
        self._casts: dict[nn.Parameter, Tensor] = {}
        self._rebuild: Callable[[tuple[Tensor, ...]], Any] = lambda tensors: tensors[0]
        self._captured = Captured(self._evaluate, capture=capture)

    def renew(self) -> None:
        """Follow what became of the weights since the last use. Call this, as the network, in inference mode."""
        addresses = tuple(p.data_ptr() for p in self._network.parameters())
        if addresses != self._addresses or not is_plain(self._network):
            self._addresses = addresses
            self._captured.forget()
            self._casts = {p: torch.empty_like(p, dtype=torch.bfloat16) for p in self._cast_parameters()}
        for parameter, cast in self._casts.items():
            cast.copy_(parameter)

    def __call__(self, z: Tensor, t: Tensor, condition: Any, *until: float) -> Tensor:
        """The velocity; see `FlowMatching.velocity`. Mean velocities, few in a sample, are not captured."""
        parts = _tensors_of(condition)
        if parts is None or until:
            return self._velocity(z, t, condition, *until)
        tensors, self._rebuild = parts
        return self._captured(z, t, *tensors)

    def _evaluate(self, z: Tensor, t: Tensor, *tensors: Tensor) -> Tensor:
        replaced = []
        for module in self._network.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and parameter in self._casts:
                    replaced.append((module._parameters, name, parameter))
        try:
            for parameters, name, parameter in replaced:
                parameters[name] = self._casts[parameter]  # pyright: ignore[reportArgumentType]  (read, not trained)
            with torch.autocast(self._kind, torch.bfloat16, enabled=self.bf16, cache_enabled=False):
                return self._velocity(z, t, self._rebuild(tensors))
        finally:
            for parameters, name, parameter in replaced:
                parameters[name] = parameter

    def _cast_parameters(self) -> list[nn.Parameter]:
        """The parameters that autocast casts and nothing else reads; quantised ones compute on their own."""
        if not self.bf16:
            return []
        # Outside the blocks the models ask a weight for its dtype.
        blocks: Any = self._network.blocks
        linear = [m for m in blocks.modules() if type(m) is nn.Linear]
        own = [p for m in linear for p in m.parameters(recurse=False) if type(p) is nn.Parameter]
        return list(dict.fromkeys(p for p in own if p.dtype == torch.float32))


def is_plain(network: nn.Module) -> bool:
    """Whether what a network computes follows from its weights and arguments alone, so that a graph stays right.

    A hook is more than that, and so is a layer that another package put in place of one: an adapter (LoRA) can be
    switched off, or to another one, while all weights stay where they are.

    Args:
        network: any; modules of its own package are its own.
    """
    own = {"torch", "fae_core", "fae_diffusion", type(network).__module__.split(".")[0]}
    return all(type(m).__module__.split(".")[0] in own and not is_hooked(m) for m in network.modules())


def _tensors_of(condition: Any) -> tuple[tuple[Tensor, ...], Callable[[tuple[Tensor, ...]], Any]] | None:
    """A condition's tensors and what puts it together again; None where it holds anything else."""
    if isinstance(condition, Tensor):
        return (condition,), lambda tensors: tensors[0]
    if not dataclasses.is_dataclass(condition):
        return None
    fields = {f.name: getattr(condition, f.name) for f in dataclasses.fields(condition)}
    names = [name for name, value in fields.items() if isinstance(value, Tensor)]
    if any(value is not None and name not in names for name, value in fields.items()):
        return None
    kind: Any = type(condition)
    return (
        tuple(fields[name] for name in names),
        lambda tensors: kind(**{**fields, **dict(zip(names, tensors, strict=True))}),
    )
