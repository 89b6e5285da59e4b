"""Where images come from: one interface over folders, parquet files, ADM's .npz files and the built-in photographs."""

from __future__ import annotations

import bisect
import collections
import importlib.util
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fae_core.digests import FileDigests
from fae_core.documents import require_regular
from fae_core.errors import DataError, MissingPackage
from fae_core.images.captions import Picked
from fae_core.images.decode import SUFFIXES, decode_image, printable
from fae_core.images.identity import pixels_digest
from fae_core.images.shards import expand, is_remote
from fae_core.images.splits import files_of_split
from fae_core.images.tell import tell

if TYPE_CHECKING:
    from PIL.Image import Image

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

_PATTERN = re.compile(r"\{\d{1,18}\.\.\d{1,18}\}")
_SLICE = re.compile(r"(.+)\[(-?\d{1,18})?:(-?\d{1,18})?(?::(-?[1-9]\d{0,17}))?\]")  # start, stop and step as in Python


class ImageSource(ABC):
    """Images by index, with their labels and captions where they have any.

    labels: one class index per image, or None. classes: class names by index, or None where they are not known.
    captions: one text per image, or None; read when it is asked for, so that opening a source stays quick.
    blocks: how many images lie together in each file or row group, in order, where reading them out of order is dear;
    None where it is not.
    """

    labels: list[int] | None = None
    captions: Sequence[str] | None = None
    classes: list[str] | None = None
    blocks: list[int] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Image:
        """The image as RGB uint8, in its own size. Raises DataError, naming it, where it cannot be read. Thread-safe."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call the image in messages: its path, or its place in a file."""

    def content(self, digests: FileDigests, indices: Sequence[int] | None = None) -> Iterator[str]:
        """What `content_identity` is made of beside labels and classes: the images' files and captions, in order.

        indices: of some images alone. Here every image is decoded; sources that know their files say so more cheaply.
        """
        for index in range(len(self)) if indices is None else indices:
            yield pixels_digest(self, index)
            if self.captions is not None:
                yield self.captions[index]

    def place(self, index: int) -> int:
        """Which image `read(index)` gave, for its label: this one, unless it cannot be read and another takes its place."""
        return index

    def select(self, indices: Sequence[int]) -> ImageSource:
        """Some of the images, in that order."""
        return _Selection(self, indices)


def open_images(source: str | Path | ImageSource, split: str | None = None) -> ImageSource:
    """The images of `source`:

    - a folder of images: flat (labels.json may give labels), or one subfolder per class; a classes.json in it gives the
      class order and names. split: a subfolder of it, such as "train". Captions: a metadata.jsonl in it with "file_name" and
      "caption" or "text", or NAME.txt beside every image.
    - a .parquet file, or a folder of them, with Hugging Face's image feature (needs fae-core[data]); a column of strings
      "caption" or "text" gives captions. split: the start of the files' names, or a word in them.
    - WebDataset's .tar shards: one, or a folder of them, with a split as for .parquet files.
    - a pattern for many .tar or .parquet files, such as "train-{0000..0099}.tar"; also on other machines, as in
      "https://host/train-{0000..0099}.tar" (see `fae_core.images.shards`).
    - an .npz file as ADM writes it: arr_0 uint8 (N, H, W, 3), arr_1 labels.
    - one image file.
    - "photographs": the eight colour photographs inside scikit-image (needs fae-core[demo]), each a class of its own.
    - any of these with a slice behind it, as in "train.parquet[:45000]", "photos[-100:]" or "photos[::4]".

    What a folder or shard holds beside its images is passed over; what looks like an image or a caption and is left out is
    counted, and one is named in the log. Raises DataError where there is nothing to read, where files of several splits or
    kinds lie together, or labels do not match, MissingPackage where an extra is missing.
    """
    if isinstance(source, ImageSource):
        return source
    if not isinstance(source, (str, Path)) or not str(source):
        what = "an empty name" if isinstance(source, str) else f"a {type(source).__name__}"
        raise DataError(f"images are opened from a path, an address or an ImageSource, not from {what}")
    sliced = _SLICE.fullmatch(str(source))
    if sliced and not _exists(Path(source)):
        whole = open_images(sliced[1], split)
        bounds = (None if part is None else int(part) for part in sliced.group(2, 3, 4))
        chosen = range(len(whole))[slice(*bounds)]
        if not chosen:
            raise DataError(f"{source} selects none of {len(whole)} images")
        return whole.select(chosen)
    if str(source) == "photographs":
        return Photographs()
    if is_remote(str(source)) or _PATTERN.search(str(source)):
        return _open_pattern(str(source))
    path = Path(source).expanduser()
    if not _exists(path):
        raise DataError(
            f'{printable(path)} does not exist; give an image folder, a .parquet or .npz file, or "photographs"'
        )
    if path.is_dir():
        return _open_folder(path, split)
    require_regular(path, DataError)
    if split is not None:
        raise DataError(f"{path} is one file and has no split {split!r}")
    if path.suffix == ".parquet":
        from fae_core.images.parquet import ParquetImages

        return ParquetImages([path])
    if path.suffix == ".tar":
        from fae_core.images.tar import TarImages

        return TarImages([path])
    if path.suffix == ".npz":
        from fae_core.images.npz import NpzImages

        return NpzImages(path)
    if path.suffix.lower() in SUFFIXES:
        from fae_core.images.folder import ImageFile

        return ImageFile(path)
    raise DataError(f"{path} is neither a folder nor a .parquet, .tar, .npz or image file")


def _open_pattern(pattern: str) -> ImageSource:
    files = expand(pattern)
    if pattern.endswith(".tar"):
        from fae_core.images.tar import TarImages

        return TarImages(files)
    if pattern.endswith(".parquet"):
        from fae_core.images.parquet import ParquetImages

        return ParquetImages(files)
    raise DataError(f"{pattern}: patterns and remote addresses name .tar or .parquet files")


def _open_folder(path: Path, split: str | None) -> ImageSource:
    kinds = {suffix: _visible(path, f"*{suffix}") for suffix in (".parquet", ".tar")}
    if all(kinds.values()):
        several = " and ".join(f"{len(files)} {suffix} files ({files[0].name})" for suffix, files in kinds.items())
        raise DataError(
            f"{path} holds {several}; name one kind by a pattern such as {path}/{{0000..0099}}.tar, or move one"
        )
    if any(kinds.values()) and (loose := [file for file in _visible(path, "*") if file.suffix.lower() in SUFFIXES]):
        tell(
            f"{path} is read for its shards; {len(loose)} image files beside them are left out, such as {loose[0].name}"
        )
    if kinds[".parquet"]:
        from fae_core.images.parquet import ParquetImages

        return ParquetImages(files_of_split(kinds[".parquet"], split))
    if kinds[".tar"]:
        from fae_core.images.tar import TarImages

        return TarImages(files_of_split(kinds[".tar"], split))
    if split is not None:
        if not (path / split).is_dir():
            raise DataError(f"{path} has no split {split!r}")
        return _open_folder(path / split, None)
    from fae_core.images.folder import FolderImages

    return FolderImages(path)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds a zero byte
        return False


def _visible(folder: Path, pattern: str) -> list[Path]:
    return sorted(file for file in folder.glob(pattern) if not file.name.startswith("."))


class Photographs(ImageSource):
    """Eight real colour photographs that every installation of scikit-image carries; image i is the only one of class i."""

    def __init__(self) -> None:
        found = importlib.util.find_spec("skimage")
        if found is None or found.origin is None:
            raise MissingPackage('the source "photographs"', "fae-core[demo]")
        folder = Path(found.origin).parent / "data"
        self._files = [folder / file for file in PHOTOGRAPHS.values()]
        missing = [file.name for file in self._files if not file.is_file()]
        if missing:
            raise DataError(f"the installed scikit-image lacks {', '.join(missing)}; reinstall fae-core[demo]")
        self.classes = list(PHOTOGRAPHS)
        self.labels = list(range(len(PHOTOGRAPHS)))

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Image:
        return decode_image(self._files[index])

    def name(self, index: int) -> str:
        return list(PHOTOGRAPHS)[index]

    def content(self, digests: FileDigests, indices: Sequence[int] | None = None) -> Iterator[str]:
        return digests.of_many(self._files if indices is None else [self._files[i] for i in indices])


class _Selection(ImageSource):
    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        self._source, self._indices = source, [range(len(source))[i] for i in indices]
        self.classes = source.classes
        self.labels = None if source.labels is None else [source.labels[i] for i in self._indices]
        self.captions = None if source.captions is None else Picked(source.captions, self._indices)
        self.blocks = None if source.blocks is None else _blocks_of(self._indices, source.blocks)

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> Image:
        return self._source.read(self._indices[index])

    def name(self, index: int) -> str:
        return self._source.name(self._indices[index])

    def content(self, digests: FileDigests, indices: Sequence[int] | None = None) -> Iterator[str]:
        chosen = self._indices if indices is None else [self._indices[i] for i in indices]
        return self._source.content(digests, chosen)


def _blocks_of(indices: Sequence[int], blocks: Sequence[int]) -> list[int] | None:
    """How a selection in ascending order lies in the blocks; None for one in another order."""
    if any(a >= b for a, b in itertools.pairwise(indices)):
        return None
    bounds = list(itertools.accumulate(blocks))
    counts = collections.Counter(bisect.bisect_right(bounds, index) for index in indices)
    return [counts[block] for block in sorted(counts)]
