"""Which output of a classifier is which class of the images: by name where the classifier's names are known."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from fae_core.errors import DataError, FAEError

BY_PLACE = "The head has no class names: class i of the images was taken for its output i."
_IMAGENET = 1000


def labels_for_head(labels: Sequence[int], names: Sequence[str] | None, outputs: int) -> tuple[list[int], str | None]:
    """`labels` into `names` as outputs of a head, and a note where nothing but their order says so.

    A head of 1000 outputs is ImageNet's: images whose classes are called by WordNet ids or ImageNet's names are matched by
    them, in any order and also where they are only some of the classes. Raises FAEError where a class is no output.
    """
    if names is None:
        if max(labels) >= outputs:
            raise DataError(f"the images have the label {max(labels)}, and the head has {outputs} outputs")
        return list(labels), BY_PLACE
    known = _imagenet() if outputs == _IMAGENET else {}
    found = {label: known.get(names[label].casefold(), ()) for label in set(labels)}
    if len(names) == outputs and all(not places or label in places for label, places in found.items()):
        return list(labels), None if all(found.values()) else BY_PLACE
    unclear = next((label for label, places in found.items() if len(places) != 1), None)
    if unclear is None:
        return [found[label][0] for label in labels], None
    if len(names) != outputs:
        raise FAEError(
            f"the images have {len(names)} classes and the head {outputs}; a classes.json that lists all of the head's classes "
            "says which is which"
        )
    label, places = next((label, places) for label, places in found.items() if places and label not in places)
    raise DataError(
        f"class {label} of the images is called {names[label]!r}, which is output {places[0]} of the head, but "
        f"{names[unclear]!r} is not one name of the head's; name all classes by WordNet ids, or list them in the head's order"
    )


@functools.cache
def _imagenet() -> dict[str, tuple[int, ...]]:
    """WordNet id or name -> the outputs that may be meant (two are called crane); empty without timm, which lists them."""
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        return {}
    info = ImageNetInfo()
    known: dict[str, tuple[int, ...]] = {}
    for place, (wnid, described) in enumerate(zip(info.label_names(), info.label_descriptions(), strict=True)):
        for name in {wnid, described, *described.split(",")}:
            key = name.strip().casefold()
            known[key] = (*known.get(key, ()), place)
    return known
