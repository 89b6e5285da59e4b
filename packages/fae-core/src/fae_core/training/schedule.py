"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from fae_core.training.config import TrainConfig


def learning_rate_factor(config: TrainConfig, step: int) -> float:
    """The learning rate of one update as a multiple of its peak.

    Args:
        config: the schedule's settings.
        step: the update, counted from 0.
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    start = config.warmup + config.hold
    progress = min(1.0, max(0.0, (step - start) / max(1, config.schedule_length - start)))
    floor = config.final_learning_rate_ratio
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
