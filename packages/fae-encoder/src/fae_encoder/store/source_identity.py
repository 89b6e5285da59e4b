"""The identity of a source of images: a text made from its content, recorded with what was computed from it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fae_core.errors import DataError
from fae_core.images.identity import images_identity, same_images

if TYPE_CHECKING:
    from fae_core.images import ImageSource

_BY_NAME = re.compile(r"\d+ images [0-9a-f]{16} at ")  # the form of earlier versions, which hashed names
_FORM = re.compile(r"(\d+) images ((?:files-[0-9a-f]{64}(?: content-)?)?(?:[0-9a-f]{64})?) at (.*)", re.DOTALL)
_SAMPLES = 1024  # how many names they hashed


def source_identity(
    source: ImageSource, size: tuple[int, int], precision: str, *, show: bool = False, before: str | None = None
) -> str:
    """A source's content (images in order, labels, classes, captions) and how it was read.

    A large source is known by the facts about its files (`fae_core.images.identity`), unless a survey has its content.

    Args:
        source: the images.
        size: (height, width) at which they are read.
        precision: of the encoder's arithmetic, fp32 or bf16.
        show: show a progress bar over large sets.
        before: the identity that it will be compared with (`same_source`), where there is one.
    """
    then = _FORM.match(before or "")
    images = images_identity(source, show=show).text(then and then[2])
    return f"{len(source)} images {images} at {size[0]}x{size[1]} in {precision}"


def same_source(one: str, other: str) -> bool:
    """Whether two identities, of whatever form, mean the same images read in the same way."""
    parts = _FORM.match(one), _FORM.match(other)
    if parts[0] is None or parts[1] is None:
        return one == other
    return all(parts[0][part] == parts[1][part] for part in (1, 3)) and same_images(parts[0][2], parts[1][2])


def require_same_images(out: Path, before: str, source: ImageSource) -> None:
    """Check that a store to resume was begun with the same images; `same_source` compares how they are read, too.

    Args:
        out: the store's folder.
        before: the identity with which it was begun; one of an earlier version is none to compare.
        source: the images.

    Raises:
        DataError: it was begun with others.
    """
    then = _FORM.match(before)
    if then is None:
        return
    now = f"{len(source)} images {images_identity(source, show=True).text(then[2])} at {then[3]}"
    if not same_source(before, now):
        raise other_source(out, before, now)


def other_source(out: Path, before: str, now: str) -> DataError:
    """The error about a store that was begun with another source."""
    return DataError(
        f"{out} was begun with source {before!r}, not {now!r}: other images, labels or captions, or "
        "another size, precision or weights; give the same again, or --overwrite"
    )


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
