"""The eight colour photographs that scikit-image carries, for tests and the demo."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fae_core.errors import DataError, MissingPackage
from fae_core.images.decode import decode_image
from fae_core.images.source import ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image

    from fae_core.files.digests import Digests

PHOTOGRAPHS = {
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "hubble_deep_field": "hubble_deep_field.jpg",
    "ihc": "ihc.png",
    "motorcycle_left": "motorcycle_left.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
}


class Photographs(ImageSource):
    """Eight colour photographs that every installation of scikit-image contains; image i is the only one of class i.

    Raises:
        DataError: the installed scikit-image lacks some of them.
        MissingPackage: scikit-image is not installed.
    """

    def __init__(self) -> None:
        found = importlib.util.find_spec("skimage")
        if found is None or found.origin is None:
            raise MissingPackage('the source "photographs"', "fae-core[demo]")
        folder = Path(found.origin).parent / "data"
        self._files = [folder / file for file in PHOTOGRAPHS.values()]
        missing = [file.name for file in self._files if not file.is_file()]
        if missing:
            again = "pip install --force-reinstall --no-deps scikit-image"
            raise DataError(f"the installed scikit-image lacks {', '.join(missing)}: {again}")
        self.classes = list(PHOTOGRAPHS)
        self.labels = list(range(len(PHOTOGRAPHS)))

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Image:
        return decode_image(self._files[index])

    def name(self, index: int) -> str:
        return list(PHOTOGRAPHS)[index]

    def content(self, digests: Digests, indices: Sequence[int] | None = None) -> Iterator[str]:
        return digests.of_many(self._files if indices is None else [self._files[i] for i in indices])
