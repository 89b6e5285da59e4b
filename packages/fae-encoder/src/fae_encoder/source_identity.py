"""Text that tells two sources of images apart, kept with what was made from them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fae_core.images import ImageSource

_SAMPLES = 1024  # names that identify a source


def source_identity(source: ImageSource, size: tuple[int, int], precision: str) -> str:
    """A source, the (height, width) at which it was read, and the arithmetic (fp32, bf16) it went through."""
    return f"{_identity(source)} at {size[0]}x{size[1]} in {precision}"


def short_name(source: ImageSource, place: int) -> str:
    """The last two parts of an image's name: the same wherever the data lie."""
    return "/".join(Path(source.name(place)).parts[-2:])


def _identity(source: ImageSource) -> str:
    """A source's size, names, labels and captions, without reading 10^8 of them."""
    step = max(1, len(source) // _SAMPLES)
    digest = hashlib.sha256()
    for place in range(0, len(source), step):
        label = None if source.labels is None else source.labels[place]
        # Shards may lie on another machine; their captions are not worth fetching for this.
        known = source.captions is not None and source.blocks is None
        caption = "" if not known else f"\x1f{source.captions[place]}"
        digest.update(f"{short_name(source, place)}\x1f{label}{caption}\x1e".encode())
    return f"{len(source)} images {digest.hexdigest()[:16]}"
