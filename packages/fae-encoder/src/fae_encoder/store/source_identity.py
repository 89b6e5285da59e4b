"""Text that tells two sources of images apart by their content, kept with what was made from them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fae_core.images.identity import content_identity

if TYPE_CHECKING:
    from fae_core.images import ImageSource

_BY_NAME = re.compile(r"\d+ images [0-9a-f]{16} at ")  # as it was written before images were told apart by content
_SAMPLES = 1024  # names that stood for a source then


def source_identity(source: ImageSource, size: tuple[int, int], precision: str, *, show: bool = False) -> str:
    """The content of a source (images in order, labels, classes, captions), the (height, width) at which it was read, and the
    arithmetic (fp32, bf16) it went through. show: a progress bar over large sets."""
    return f"{len(source)} images {content_identity(source, show=show)} at {size[0]}x{size[1]} in {precision}"


def is_identity_by_name(identity: str) -> bool:
    """Whether it was written before images were told apart by content."""
    return _BY_NAME.match(identity) is not None


def identity_by_name(source: ImageSource, size: tuple[int, int], precision: str) -> str:
    """The identity that earlier versions wrote: of names, labels and captions of some images."""
    step = max(1, len(source) // _SAMPLES)
    digest = hashlib.sha256()
    for place in range(0, len(source), step):
        label = None if source.labels is None else source.labels[place]
        known = source.captions is not None and source.blocks is None
        caption = "" if not known else f"\x1f{source.captions[place]}"
        digest.update(f"{short_name(source, place)}\x1f{label}{caption}\x1e".encode())
    return f"{len(source)} images {digest.hexdigest()[:16]} at {size[0]}x{size[1]} in {precision}"


def short_name(source: ImageSource, place: int) -> str:
    """The last two parts of an image's name: the same wherever the data lie."""
    return "/".join(Path(source.name(place)).parts[-2:])
