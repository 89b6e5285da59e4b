"""ADM's sample files: an .npz with arr_0, uint8 (N, H, W, 3), often arr_1, labels (N,), and from us the classes' names."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as PillowImage

from fae_core.digests import FileDigests
from fae_core.errors import DataError
from fae_core.images.classes import check_labels, read_classes
from fae_core.images.sources import ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image

CLASSES_ARRAY = "classes"  # names by label, (K,) of text: ours, other readers pass it over
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member: the lengths of its name and of its extra field
_MAX_COMPRESSED = 64 * 2**30  # bytes that a compressed array may unpack to


class NpzImages(ImageSource):
    """The images of an .npz file, memory-mapped where it is not compressed (numpy.savez; ADM's are), else in memory.

    Raises DataError where arr_0 is missing, not uint8 (N, H, W, 3), or holds objects: nothing is unpickled.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._images = read_member(self.path, "arr_0")
        if self._images.dtype != np.uint8 or self._images.ndim != 4 or self._images.shape[-1] != 3:
            raise DataError(
                f"{path}: arr_0 must be uint8 (N, H, W, 3), it is {self._images.dtype} {self._images.shape}"
            )
        if 0 in self._images.shape:
            raise DataError(f"{path} holds no images")
        if "arr_1.npy" in _members(self.path):
            labels = read_member(self.path, "arr_1")
            if labels.shape != (len(self),):
                raise DataError(f"{path}: arr_1 has shape {labels.shape} for {len(self)} images")
            self.classes = self._class_names()
            self.labels = check_labels(labels.tolist(), len(self.classes) if self.classes else None, str(path))

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> Image:
        return PillowImage.fromarray(np.array(self._images[index]))

    def name(self, index: int) -> str:
        return f"{self.path}[{index}]"

    def _class_names(self) -> list[str] | None:
        listed = read_classes(self.path.parent)
        if f"{CLASSES_ARRAY}.npy" not in _members(self.path):
            return listed.names if listed else None
        names = read_member(self.path, CLASSES_ARRAY)
        if names.ndim != 1 or names.dtype.kind != "U":
            raise DataError(
                f"{self.path}: {CLASSES_ARRAY} must be a list of class names, not {names.dtype} {names.shape}"
            )
        if listed and listed.names != names.tolist():
            raise DataError(f"{listed.where} and {self.path} name different classes")
        return names.tolist()

    def content(self, digests: FileDigests, indices: Sequence[int] | None = None) -> Iterator[str]:
        yield digests.of(self.path)
        yield "" if indices is None else f"{list(indices)}"


def read_member(path: Path, name: str) -> np.ndarray:
    """One array of an .npz file, memory-mapped where it is stored uncompressed. Raises DataError; never unpickles."""
    if f"{name}.npy" not in _members(path):
        raise DataError(f"{path} has no array {name}")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            info = archive.getinfo(f"{name}.npy")
            version = np.lib.format.read_magic(member)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read_header(member)
            header_bytes = member.tell()
        if dtype.hasobject:
            raise DataError(f"{path}: {name} holds Python objects, which are never unpickled")
        if info.compress_type != zipfile.ZIP_STORED or 0 in shape:
            if int(np.prod(shape, dtype=object)) * dtype.itemsize > _MAX_COMPRESSED:
                raise DataError(f"{path}: {name} {shape} unpacks to more than 64 GiB; save it with numpy.savez")
            with np.load(path, allow_pickle=False) as arrays:
                return arrays[name]
        with path.open("rb") as file:
            file.seek(info.header_offset)
            name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        offset = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length + header_bytes
        return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
    except DataError:
        raise
    except Exception as error:  # zip and numpy raise many types on damaged files
        raise DataError(f"cannot read {name} of {path}: {' '.join(str(error).split())[:200]}") from None


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise DataError(f"{path} is not a readable .npz file: {error}") from None
