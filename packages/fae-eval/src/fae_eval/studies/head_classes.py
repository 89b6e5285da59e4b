"""Which output of a classifier means which class of the images: by name where the classifier's names are known."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from fae_core.errors import DataError, FAEError

BY_PLACE = "The head has no class names: class i of the images was taken for its output i."
_IMAGENET = 1000


def labels_for_head(labels: Sequence[int], names: Sequence[str] | None, outputs: int) -> tuple[list[int], str | None]:
    """The outputs of a head that mean the labels of images.

    A head of 1000 outputs is ImageNet's. Images whose classes have WordNet ids, ImageNet's names or its numbers (0 to
    999, perhaps with zeros before them) are matched by these, in any order, also where they are only some of the
    classes. Folders in the order of their names are 0, 1, 10, 100, ...

    Args:
        labels: class of each image, an index into `names`.
        names: of the images' classes; None where they are not known.
        outputs: how many the head has.

    Returns:
        The output for each image, and a note where the match rests on nothing but the order of classes.

    Raises:
        FAEError: where a class matches no output.
    """
    if names is None:
        if max(labels) >= outputs:
            raise DataError(f"the images have the label {max(labels)}, and the head has {outputs} outputs")
        return list(labels), BY_PLACE
    known = _imagenet() if outputs == _IMAGENET else {}
    found = {label: known.get(_key(names[label]), ()) for label in set(labels)}
    if len(names) == outputs and all(not places or label in places for label, places in found.items()):
        return list(labels), None if all(found.values()) else BY_PLACE
    unclear = next((label for label, places in found.items() if len(places) != 1), None)
    if unclear is None:
        return [found[label][0] for label in labels], None
    if len(names) != outputs:
        raise FAEError(
            f"the images have {len(names)} classes and the head {outputs}; a classes.json that lists all of the head's "
            "classes says which is which"
        )
    label, places = next((label, places) for label, places in found.items() if places and label not in places)
    raise DataError(
        f"class {label} of the images is called {names[label]!r}, which is output {places[0]} of the head, but "
        f"{names[unclear]!r} is not one name of the head's; name all classes by WordNet ids, or list them in the "
        "head's order"
    )


@functools.cache
def _imagenet() -> dict[str, tuple[int, ...]]:
    """WordNet id, name or number -> the outputs it may mean (two are called crane); empty without timm."""
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        return {}
    info = ImageNetInfo()
    known: dict[str, tuple[int, ...]] = {}
    for place, (wnid, described) in enumerate(zip(info.label_names(), info.label_descriptions(), strict=True)):
        for name in {str(place), wnid, described, *described.split(",")}:
            known[_key(name)] = (*known.get(_key(name), ()), place)
    return known


def _key(name: str) -> str:
    """A name as it is compared: without regard to case, and a number without zeros before it."""
    name = name.strip().casefold()
    return str(int(name)) if name.isdecimal() and len(name) < 10 else name
