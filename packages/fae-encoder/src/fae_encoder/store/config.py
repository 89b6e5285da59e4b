"""What can be chosen about encoding a data set. torch is not imported, so that settings are checked at once."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fae_core.config import Config
from fae_core.config.limits import LARGEST_BATCH, LARGEST_SEED, MOST_PROCESSES, SMALLEST_SEED


class EncodeConfig(Config):
    """How a data set is encoded.

    Attributes:
        batch_size: images read and moved to the device at a time, in multiples of 32; it does not change the latents.
        dtype: of the stored latents.
        posterior: "distribution" stores mean and std, so that each reading can draw a new sample; "mean" and "sample"
            take half the space.
        flips: encode the mirror images too.
        shard_size: samples per file; None = about 64 MiB.
        precision: of the encoder's arithmetic.
        seed: of the draws of posterior="sample".
        statistics: those by which the store normalises: "encoder", "data", or "auto" (the encoder's if it has any).
        threads: that decode images, per process; None: as many as it may use cores.
    """

    batch_size: int = Field(default=32, ge=1, le=LARGEST_BATCH)
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    posterior: Literal["distribution", "mean", "sample"] = "distribution"
    flips: bool = False
    shard_size: int | None = Field(default=None, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = Field(default=0, ge=SMALLEST_SEED, le=LARGEST_SEED)
    statistics: Literal["auto", "encoder", "data"] = "auto"
    threads: int | None = Field(default=None, ge=1, le=MOST_PROCESSES)
