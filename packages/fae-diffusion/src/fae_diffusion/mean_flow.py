"""MeanFlow (Geng et al., 2025): a network that predicts the mean velocity over an interval of times, for few steps.

The mean velocity from t down to r is u(z, t, r) = (z_t - z_r) / (t - r), so one evaluation carries a state over the
whole interval: z_r = z_t - (t - r) u(z_t, t, r). Its derivative along the path gives what u has to be:

    u(z_t, t, r) = v - (t - r) (v du/dz + du/dt),    v the velocity at (z_t, t)

The network is trained on the right side, without a gradient through it. The derivative takes one pass in forward mode.
For r = t the mean velocity is the velocity itself, so every other sampler also works with such a network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fae_core import ops
from fae_diffusion.models.config import MeanFlow

Network = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (z, t, condition, until) -> mean velocity


def interval(settings: MeanFlow, first: Tensor, second: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
    """The ends (t, r) of each sample's interval, r <= t.

    Args:
        settings: their share is that of the samples with r < t.
        first: training times, (B,).
        second: training times drawn apart from them, (B,).
        choice: uniform numbers, (B,).
    """
    t, r = torch.maximum(first, second), torch.minimum(first, second)
    return t, torch.where(choice < settings.share, r, t)


def mean_flow_loss(
    network: Network,
    settings: MeanFlow,
    x: Tensor,
    velocity: Tensor,
    t: Tensor,
    until: Tensor,
    condition: Tensor,
    null: Tensor | None,
) -> dict[str, Tensor]:
    """The loss of each sample, and the error that it weighs.

    Args:
        network: (z, t, condition, until) -> mean velocity.
        settings: of the objective.
        x: states at t, (B, C, h, w).
        velocity: of the path at t, (B, C, h, w).
        t: upper ends of the intervals, (B,).
        until: lower ends, (B,).
        condition: labels, (B,).
        null: the condition "none", (B,); needed with guidance. Samples whose condition it is are learned unguided.

    Returns:
        Tensors (B,): "loss", and "mse", the mean square of the error.
    """
    with torch.no_grad():
        velocity = _guided(network, settings, x, velocity.float(), t, condition, null)
        target = velocity - _correction(network, x, velocity, t, until, condition)
    error = (network(x, t, condition, until).float() - target).square().flatten(1)
    total = error.sum(1)
    weight = (total.detach() + settings.weight_floor) ** settings.weight_power
    return {"loss": total / weight if settings.weight_power else error.mean(1), "mse": error.mean(1).detach()}


def _guided(
    network: Network,
    settings: MeanFlow,
    x: Tensor,
    velocity: Tensor,
    t: Tensor,
    condition: Tensor,
    null: Tensor | None,
) -> Tensor:
    """The velocity that is learned: guided against the network's own without a condition (section 4.2 there)."""
    if settings.guidance == 1 or null is None:
        return velocity
    other = network(x, t, null, t).to(velocity.dtype)
    guided = torch.lerp(other, velocity, settings.guidance)
    conditional = (condition != null).view(-1, *(1,) * (x.ndim - 1))
    return torch.where(conditional, guided, velocity)


@torch.compiler.disable()  # forward mode is not traced
def _correction(network: Network, x: Tensor, velocity: Tensor, t: Tensor, until: Tensor, condition: Tensor) -> Tensor:
    """(t - r) du/dt along the path, (B, C, h, w) fp32; 0 where r = t."""
    found = torch.zeros_like(velocity)
    rows = (until < t).nonzero().flatten()
    if not len(rows):  # every process of a group makes the same calls
        rows = rows.new_zeros(1)
    start, end = t[rows], until[rows]
    # Fused attention has no derivative in forward mode; the plain one has. Compiled blocks lose it without a word on
    # some versions of torch.
    eager = torch.compiler.set_stance("force_eager")
    with ops.backend("reference"), eager, forward_ad.dual_level():
        state = forward_ad.make_dual(x[rows], velocity[rows].to(x.dtype))
        out = network(state, forward_ad.make_dual(start, torch.ones_like(start)), condition[rows], end)
        tangent = forward_ad.unpack_dual(out).tangent
    assert tangent is not None
    found[rows] = ((start - end).view(-1, *(1,) * (x.ndim - 1)) * tangent).to(found.dtype)
    return found
