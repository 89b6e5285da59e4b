"""Settings of the previews that a generator makes while it trains."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from fae_core.config import Config
from fae_core.config.limits import LARGEST_SEED, MOST_COLUMNS, MOST_IMAGES, SMALLEST_SEED


class PreviewConfig(Config):
    """The section `preview` of a generator's settings; `training.preview_every`, which goes with it, is the interval.

    Attributes:
        decoder: the tokenizer that decodes the latents.
        count: how many images the grid has.
        columns: how many of them stand in a row.
        seed: of the samples, the same at every step.
        options: of the generator's `sample` (guidance, steps, ...).
        reference: real images to measure samples against, cropped to the samples' size; None measures nothing.
        measured: how many samples are compared with the reference.
        metric: what compares them, a name of the entry-point group "fae.metrics".
        extractor: the network on whose features the metric works.
    """

    decoder: str
    count: int = Field(default=64, ge=1, le=MOST_IMAGES)
    columns: int = Field(default=8, ge=1, le=MOST_COLUMNS)
    seed: int = Field(default=0, ge=SMALLEST_SEED, le=LARGEST_SEED)
    options: dict[str, Any] = Field(default_factory=dict)
    reference: str | None = None
    measured: int = Field(default=1000, ge=2, le=MOST_IMAGES)
    metric: str = "frechet"
    extractor: str = "efficientnet-lite2"
