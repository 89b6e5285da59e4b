"""A part of many images, or of other things by index, evenly spread: folders are ordered by class."""

from __future__ import annotations

from fae_core.images.source import ImageSource


def spread_indices(count: int, most: int | None) -> list[int]:
    """At most `most` of `count` indices, each once, in order and evenly spread, from the first on.

    Args:
        count: how many there are.
        most: how many are wanted; None for all.
    """
    if most is None or most >= count:
        return list(range(count))
    return [i * count // most for i in range(most)]


def evenly_spread(source: ImageSource, most: int | None) -> ImageSource:
    """At most `most` images of a source, evenly spread; the source itself where that is all of them.

    Args:
        source: the images.
        most: how many are wanted; None for all.
    """
    return source if most is None or most >= len(source) else source.select(spread_indices(len(source), most))
