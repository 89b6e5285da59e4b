"""The identity of a source of images: a text made from its content, recorded with what was computed from it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fae_core.images.identity import content_identity

if TYPE_CHECKING:
    from fae_core.images import ImageSource

_BY_NAME = re.compile(r"\d+ images [0-9a-f]{16} at ")  # the form of earlier versions, which hashed names
_SAMPLES = 1024  # how many names they hashed


def source_identity(source: ImageSource, size: tuple[int, int], precision: str, *, show: bool = False) -> str:
    """A source's content (images in order, labels, classes, captions) and how it was read.

    Args:
        source: the images.
        size: (height, width) at which they are read.
        precision: of the encoder's arithmetic, fp32 or bf16.
        show: show a progress bar over large sets.
    """
    return f"{len(source)} images {content_identity(source, show=show)} at {size[0]}x{size[1]} in {precision}"


def is_identity_by_name(identity: str) -> bool:
    """Whether an identity is of an earlier version, which compared images by name and not by content."""
    return _BY_NAME.match(identity) is not None


def identity_by_name(source: ImageSource, size: tuple[int, int], precision: str) -> str:
    """The identity of earlier versions: names, labels and captions of some images; see `source_identity`."""
    step = max(1, len(source) // _SAMPLES)
    captions = source.captions if source.blocks is None else None
    digest = hashlib.sha256()
    for place in range(0, len(source), step):
        label = None if source.labels is None else source.labels[place]
        caption = "" if captions is None else f"\x1f{captions[place]}"
        digest.update(f"{short_name(source, place)}\x1f{label}{caption}\x1e".encode())
    return f"{len(source)} images {digest.hexdigest()[:16]} at {size[0]}x{size[1]} in {precision}"


def short_name(source: ImageSource, place: int) -> str:
    """The last two parts of an image's name, which do not depend on the folder of the data."""
    return "/".join(Path(source.name(place)).parts[-2:])
