"""GuidedVelocity: the velocity of a model under guidance. Outside the guided times a step costs one call of the model,
for the condition alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fae_diffusion.guidance import Guidance

Model = Callable[..., Tensor]  # (z, times, condition), of mean velocities also the end of the interval


class GuidedVelocity:
    """velocity(z, t) of a model under guidance, for `integrate` and `integrate_sde`.

    Args:
        model: (z, t, condition) -> velocity.
        condition: of the batch.
        guidance: scales and times.
        null: the condition "none" for the batch; both conditions go through the model in one batched call.
        join: (condition, null) -> the two in one batch; None: torch.cat.
        weak: instead of `null`, a worse model given the same condition (autoguidance; Karras et al., 2024).
        skipping: the model without the blocks that `guidance.skip` names.
    """

    def __init__(
        self,
        model: Model,
        condition: Any,
        guidance: Guidance,
        *,
        null: Any = None,
        join: Callable[[Any, Any], Any] | None = None,
        weak: Model | None = None,
        skipping: Model | None = None,
    ) -> None:
        self.model, self.condition, self.guidance, self.weak = model, condition, guidance, weak
        self.skipping = skipping
        # Joined once, not in every step.
        self.both = None if weak is not None or null is None else (join or _join)(condition, null)

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        return self.at(z, float(t.reshape(-1)[0]))

    def at(self, z: Tensor, t: float, until: float | None = None) -> Tensor:
        """The velocity at one time for the whole batch. Times are numbers, so that nothing waits for the device.

        Args:
            z: the states, (B, C, h, w).
            t: their time.
            until: the end of the interval from t over which the velocity is averaged, for a model of mean velocities.
        """
        times = torch.full((len(z),), t, dtype=torch.float32, device=z.device)
        end = () if until is None else (until,)
        at = min(max(t, 0.0), 1.0)  # a step that passes the end (`past_end`) is guided as the end is
        scale = self.guidance.scale_at(at)
        if scale == 1.0:
            guided = conditional = self.model(z, times, self.condition, *end)
        elif self.weak is not None:
            conditional = self.model(z, times, self.condition, *end)
            guided = self.guidance.combine(conditional, self.weak(z, times, self.condition, *end), scale)
        else:
            conditional, null = self.model(torch.cat([z, z]), torch.cat([times, times]), self.both, *end).chunk(2)
            guided = self.guidance.combine(conditional, null, scale)
        skip = self.guidance.skip.scale_at(at) if self.guidance.skip is not None else 0.0
        if skip == 0.0 or self.skipping is None:
            return guided
        return guided + skip * (conditional - self.skipping(z, times, self.condition, *end))

    def row(self, index: int) -> GuidedVelocity:
        """The same velocity for one sample alone."""
        alone = copy.copy(self)
        alone.condition = self.condition[index : index + 1]
        if self.both is not None:
            count = len(self.condition)
            alone.both = self.both[[index, count + index]]
        return alone


def _join(first: Tensor, second: Tensor) -> Tensor:
    """Two conditions in one batch."""
    return torch.cat([first, second])
