"""Settings of the training loop."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from fae_core.config import Config
from fae_core.config.limits import LARGEST_BATCH, LARGEST_SEED, MOST_PROCESSES, SMALLEST_SEED

Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = tuple[Beta, Beta]  # of AdamW
_EPOCHS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)ep", re.ASCII)
_LAST_STEP = 10**12


def _milestone(value: int | str) -> int | str:
    """A step, or epochs as "80ep"; raises ValueError for anything else."""
    epochs = _EPOCHS.fullmatch(value) if isinstance(value, str) else None
    if not (1 <= value <= _LAST_STEP if isinstance(value, int) else epochs and float(epochs[1]) > 0):
        raise ValueError("give a step from 1 on, or epochs of the training data as in 80ep")
    return value


Milestone = Annotated[int | str, AfterValidator(_milestone)]


class TrainConfig(Config):
    """How to train; what to train is a Task. Steps count optimiser updates, `batch_size` is global.

    The learning rate rises linearly for `warmup_steps`, stays at its peak for `hold_steps` (cosine only), then follows
    the schedule down to `final_learning_rate_ratio` of the peak at the last step.
    """

    steps: int = Field(default=1000, ge=1, le=10**12, description="updates in all")
    batch_size: int = Field(
        default=64, ge=1, le=LARGEST_BATCH, description="samples per update, over all processes and micro-batches"
    )
    accumulation: int = Field(default=1, ge=1, description="micro-batches per update")
    seed: int = Field(default=0, ge=SMALLEST_SEED, le=LARGEST_SEED, description="of weights, order and noise")

    learning_rate: float = Field(default=1e-4, gt=0, le=1e3, description="the peak, of AdamW")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="of the learning rate after the peak"
    )
    schedule_steps: int | None = Field(
        default=None,
        ge=1,
        le=10**12,
        description="length of the schedule, where it differs from the run's; a longer run keeps the last rate",
    )
    warmup_steps: float = Field(
        default=0, ge=0, le=10**12, description="a number of steps, or below 1 a fraction of them"
    )
    hold_steps: float = Field(
        default=0, ge=0, le=10**12, description="a number of steps, or below 1 a fraction of them"
    )
    final_learning_rate_ratio: float = Field(
        default=0.0, ge=0, le=1, description="learning rate at the last step over its peak (cosine only)"
    )
    betas: Betas = Field(default=(0.9, 0.999), description="of AdamW")
    weight_decay: float = Field(default=0.0, ge=0, le=1e3, description="of AdamW")
    clip_norm: float | None = Field(default=1.0, gt=0, description="largest norm of a phase's gradient; None: any")
    ema_decay: float | None = Field(
        default=0.9999, ge=0, lt=1, description="of the moving average of weights, per update; None: no average"
    )
    ema_warmup: bool = Field(default=False, description="start with the shorter average (1 + step) / (10 + step)")
    max_skipped: int = Field(
        default=10, ge=0, description="stop after this many updates in a row with a non-finite gradient"
    )

    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="bf16 is autocast, fp32 on CPUs that have no bf16; weights stay fp32"
    )
    compile: bool | Literal["auto"] = Field(
        default=False, description="torch.compile each transformer block; 'auto': on a GPU"
    )
    parallel: Literal["ddp", "fsdp"] = Field(default="ddp", description="how several processes share a model")
    deterministic: bool = Field(
        default=False, description="deterministic algorithms only, an op without one is an error; DDP sums in one order"
    )
    loader_threads: int = Field(
        default=1,
        ge=0,
        le=MOST_PROCESSES,
        description="threads per process that prepare batches ahead of time; 0 prepares each when it is due",
    )

    stall_limit: float = Field(
        default=600.0, gt=0, description="stop when a batch has not arrived after so many seconds"
    )
    verify: bool = Field(
        default=True, description="compare each shard of latents with its checksum when it is first read"
    )
    shuffle_window: int = Field(
        default=8192,
        ge=1,
        description="samples mixed with each other where data are read in blocks (tar shards, row groups)",
    )

    checkpoint_every: int = Field(default=1000, ge=1, description="updates between two checkpoints")
    keep_checkpoints: int = Field(default=2, ge=1, description="how many of the newest stay")
    keep_at: tuple[Milestone, ...] = Field(
        default=(),
        description="steps, or epochs of the training data as 80ep, after which a checkpoint is saved and never "
        "removed, and its model exported",
    )
    log_every: int = Field(default=50, ge=1, description="updates between two lines of metrics.jsonl")
    preview_every: int = Field(default=0, ge=0, description="updates between two previews; 0: none")
    track: tuple[str, ...] = Field(default=(), description="programs that show the run: tensorboard, wandb, trackio")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Raise ValueError where settings contradict each other."""
        ramp = self.warmup_steps + self.hold_steps
        if ramp > self.schedule_length:
            raise ValueError(f"warmup_steps + hold_steps ({ramp}) exceed steps ({self.schedule_length})")
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulation {self.accumulation}")
        return self

    def kept_steps(self, samples: int) -> dict[int, int | str]:
        """The steps of `keep_at`, each with what stands there; epochs are rounded to the nearest step, at least 1.

        Args:
            samples: how many there are in an epoch.
        """
        return {
            value
            if isinstance(value, int)
            else max(1, round(float(value.removesuffix("ep")) * samples / self.batch_size)): value
            for value in self.keep_at
        }

    @property
    def schedule_length(self) -> int:
        """Steps from the first to the end of the learning rate's schedule."""
        return self.steps if self.schedule_steps is None else self.schedule_steps

    @property
    def warmup(self) -> int:
        """Steps of the linear warm-up."""
        return self._steps_of(self.warmup_steps)

    @property
    def hold(self) -> int:
        """Steps at the peak before the cosine."""
        return self._steps_of(self.hold_steps)

    def _steps_of(self, value: float) -> int:
        """A number of steps, or a fraction of the schedule, as steps."""
        return round(value * self.schedule_length) if value < 1 else int(value)
