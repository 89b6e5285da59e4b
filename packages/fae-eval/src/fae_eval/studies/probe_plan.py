"""What a linear probe is asked for: its images and their classes, its head. Checked before torch is imported."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fae_core.errors import DataError, FAEError
from fae_core.images import ImageSource
from fae_core.images.classes import match_classes
from fae_core.images.spread import evenly_spread
from fae_eval.data.files import labels_of, open_image_files

TEST_SHARE = 0.25  # of the images, where no others are given to test on


@dataclass(frozen=True)
class ProbeImages:
    """Images to train a probe on, and to test it on.

    Attributes:
        source: the images.
        labels: their classes.
        test: others to test on; None: some of `source` are held out.
        test_labels: their classes, as those of `source` are numbered; of held-out images None.
        held_out: how many are held out.
    """

    source: ImageSource
    labels: list[int]
    test: ImageSource | None
    test_labels: list[int] | None
    held_out: int


def open_probe_images(
    images: Any,
    test_images: Any = None,
    *,
    survey: str | Path | None = None,
    limit: int | None = None,
    test_share: float = TEST_SHARE,
) -> ProbeImages:
    """Open the images of a probe that is trained.

    Args:
        images: labelled images, anything that `open_images` takes.
        test_images: images to test on, their classes matched by name; None holds a share of `images` out.
        survey: a report of `fae check` on `images`; broken ones are left out.
        limit: most images of each set, evenly spread.
        test_share: that share.

    Raises:
        DataError: there are no labels, the classes differ or are too few, or the images are too few to hold any out.
    """
    source = evenly_spread(open_image_files(images, survey), limit)
    labels = labels_of(source)
    require_two_classes(labels, source)
    if test_images is None:
        held_out = round(len(source) * test_share)
        if not 0 < held_out < len(source):
            raise DataError(f"{len(source)} images are too few to hold out {test_share:.0%}")
        return ProbeImages(source, labels, None, None, held_out)
    test = evenly_spread(open_image_files(test_images), limit)
    sides = {"where": test.origin or str(test_images), "known_where": source.origin or str(images)}
    return ProbeImages(source, labels, test, match_classes(labels_of(test), test.classes, source.classes, **sides), 0)


def require_two_classes(labels: Collection[int], source: ImageSource) -> None:
    """Raise DataError where the labels to train on are of fewer than two classes; `source`: what they are of."""
    if (found := len(set(labels))) < 2:
        whose = source.origin or "the source"
        raise DataError(f"a probe separates classes: it needs images of two, and {whose} has {found} to train on")


def require_pooling(pool: str | None, head: str | Path | None) -> None:
    """Raise FAEError where a way to pool is given together with a head that pools in its own way."""
    if head is not None and pool is not None:
        raise FAEError("pool is for the backbone's own head; a linear head pools as DINOv2 does")
