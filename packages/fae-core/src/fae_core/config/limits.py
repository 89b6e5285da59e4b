"""Limits of settings: a number beyond its limit is a mistake, refused before any memory is allocated.

A field's name means the same in every configuration, so limits go by name. A field that needs a lower limit declares it
itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SMALLEST_SEED, LARGEST_SEED = -(2**63), 2**64 - 1  # the range of torch's generators
MOST_IMAGES = 10_000_000  # made, cut or measured by one command
LARGEST_BATCH = 2**20  # samples at a time
LARGEST_SIDE = 16_384  # pixels of one side of an image
MOST_COLUMNS = 1000  # of a grid of images
LARGEST_SCALE = 32  # of a picture in it
MOST_PROCESSES = 1024  # or threads, or jobs, on one machine
_LIMITS: tuple[tuple[int, str], ...] = (
    (
        2**16,
        "width widths top_width hidden mlp_hidden dim feature_dim head_dim channels tail_channels discriminator_width",
    ),
    (2**16, "text_width text_dim pooled_width projection_dims projection_hidden text_tokens max_length null_length"),
    (2**16, "registers norm_groups"),
    (2**14, "image_size read_size grid patch_size position_size rope_length"),
    (2**10, "depth layers blocks heads kv_heads projection_depth mlp_ratio loader_threads read_threads threads"),
    (2**24, "classes shuffle_window norm_images statistics_images measured batch_size read_batch accumulation"),
    (
        10**12,
        "checkpoint_every keep_checkpoints log_every preview_every discriminator_start adversarial_start max_skipped",
    ),
    (LARGEST_SEED, "seed"),
)
_BY_NAME = {name: limit for limit, names in _LIMITS for name in names.split()}
_ANY_FLOAT = 1e12


def beyond(fields: Mapping[str, Any]) -> str | None:
    """The fault of the first number beyond its limit, in words; None where there is none.

    Args:
        fields: Values by name; numbers inside lists and tuples count.
    """
    for name, value in fields.items():
        for number in _numbers(value):
            limit = _BY_NAME.get(name, _ANY_FLOAT if isinstance(number, float) else None)
            if limit is not None and abs(number) > limit:
                return f"{name} {str(number)[:20]} is beyond any sensible value: at most {limit:g}"
    return None


def _numbers(value: Any) -> Iterator[int | float]:
    """Every number in a value."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
