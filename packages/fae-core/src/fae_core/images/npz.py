"""ADM's sample files: an .npz with arr_0, uint8 (N, H, W, 3), often arr_1, labels (N,), and our own array `classes`."""

from __future__ import annotations

import math
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as PillowImage

from fae_core.errors import DataError
from fae_core.files import disk_errors
from fae_core.folders import cache_folder
from fae_core.images.budget import DECODING, UNPACKED_IN_MEMORY, check_unpacked
from fae_core.images.classes import check_labels, read_classes
from fae_core.images.decode import check_size
from fae_core.images.source import ImageSource
from fae_core.images.tell import log_on_first_process

if TYPE_CHECKING:
    from PIL.Image import Image

    from fae_core.files.digests import Digests

CLASSES_ARRAY = "classes"  # names by label, (K,) of text; other readers ignore it
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member: the lengths of its name and of its extra field
_MAX_COMPRESSED = 64 * 2**30  # bytes that a compressed array may unpack to


@dataclass(frozen=True)
class Member:
    """What the header of an array in an .npz file says.

    Attributes:
        info: the zip member.
        shape: of the array.
        fortran: whether it is stored in Fortran order.
        dtype: of the array.
        offset: where its data start, in bytes from the start of the unpacked member.
    """

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    offset: int

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


class NpzImages(ImageSource):
    """The images of an .npz file, memory-mapped where it is not compressed (numpy.savez; ADM's files).

    Compressed ones are unpacked: up to 1 GiB into memory, more into an unnamed temporary file in the cache folder.

    Args:
        path: the file.

    Raises:
        DataError: arr_0 is missing, is not uint8 (N, H, W, 3), holds objects (nothing is unpickled), unpacks to more
            than 64 GiB, or to more than 1 GiB and a hundred times its size; or labels or class names do not match.
    """

    _of_process = ("_images",)

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        images = read_header(self.path, "arr_0")
        if images.dtype.hasobject:
            raise DataError(f"{path}: arr_0 holds Python objects, which are never unpickled")
        if images.dtype != np.uint8 or len(images.shape) != 4 or images.shape[-1] != 3:
            raise DataError(f"{path}: arr_0 must be uint8 (N, H, W, 3), it is {images.dtype} {images.shape}")
        if 0 in images.shape:
            raise DataError(f"{path} holds no images")
        check_size(images.shape[2], images.shape[1], str(path))
        if "arr_1.npy" in _members(self.path):
            labels = read_header(self.path, "arr_1")
            if labels.shape != images.shape[:1]:
                raise DataError(f"{path}: arr_1 has shape {labels.shape} for {images.shape[0]} images")
            names = self._class_names()
            values = read_member(self.path, "arr_1").tolist()
            self.labels = check_labels(values, len(names) if names else None, str(path))
            self.classes = names if self.labels is not None else None
        elif others := [name for name in self._others() if read_header(self.path, name).shape == images.shape[:1]]:
            log_on_first_process(f"{path}: images without labels are read; {others[0]} is left out (labels are arr_1)")
        self._begin_in_process()

    def _begin_in_process(self) -> None:
        self._images = read_member(self.path, "arr_0")

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> Image:
        with DECODING.share():
            DECODING.take(self._images[index].size // 3)
            return PillowImage.fromarray(np.ascontiguousarray(self._images[index]))

    def name(self, index: int) -> str:
        return f"{self.path}[{index}]"

    def _others(self) -> list[str]:
        """Names of arrays that are neither images nor labels."""
        names = [name.removesuffix(".npy") for name in _members(self.path) if name.endswith(".npy")]
        return [name for name in names if name not in ("arr_0", "arr_1", CLASSES_ARRAY)]

    def _class_names(self) -> list[str] | None:
        """Class names from the file, or from classes.json beside it."""
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

    def content(self, digests: Digests, indices: Sequence[int] | None = None) -> Iterator[str]:
        yield digests.of(self.path)
        yield "" if indices is None else f"{list(indices)}"


def read_member(path: Path, name: str) -> np.ndarray:
    """One array of an .npz file, memory-mapped where it is stored uncompressed. Nothing is unpickled.

    Args:
        path: the file.
        name: of the array.

    Raises:
        DataError: there is no such array, it holds objects, is damaged, or is too large to unpack.
    """
    member = read_header(path, name)
    if member.dtype.hasobject:
        raise DataError(f"{path}: {name} holds Python objects, which are never unpickled")
    try:
        if member.info.compress_type == zipfile.ZIP_STORED and member.size:
            with path.open("rb") as file:
                file.seek(member.info.header_offset)
                name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            start = member.info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
            return np.memmap(
                path, member.dtype, "r", start + member.offset, member.shape, "F" if member.fortran else "C"
            )
        if member.size > _MAX_COMPRESSED:
            raise DataError(f"{path}: {name} {member.shape} unpacks to more than 64 GiB; save it with numpy.savez")
        check_unpacked(member.size, member.info.compress_size, f"{path}: {name}")
        if member.size > UNPACKED_IN_MEMORY:
            return _unpacked(path, member)
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except DataError:
        raise
    except Exception as error:  # zip and numpy raise many types on damaged files
        raise DataError(f"cannot read {name} of {path}: {' '.join(str(error).split())[:200]}") from None


def read_header(path: Path, name: str) -> Member:
    """What an array of an .npz file is, without reading it.

    Args:
        path: the file.
        name: of the array.

    Raises:
        DataError: there is no such array, or its header is damaged.
    """
    if _members(path).count(f"{name}.npy") != 1:
        raise DataError(f"{path} has {'two arrays' if f'{name}.npy' in _members(path) else 'no array'} {name}")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(member)
            return Member(archive.getinfo(f"{name}.npy"), shape, fortran, dtype, member.tell())
    except Exception as error:  # zip and numpy raise many types on damaged files
        raise DataError(f"cannot read {name} of {path}: {' '.join(str(error).split())[:200]}") from None


def _unpacked(path: Path, member: Member) -> np.ndarray:
    """The array in a temporary file without a name, which is removed with the array."""
    folder = cache_folder()
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            with zipfile.ZipFile(path) as archive, archive.open(member.info) as packed:
                shutil.copyfileobj(packed, file, 2**20)
            file.flush()
            return np.memmap(file, member.dtype, "r", member.offset, member.shape, "F" if member.fortran else "C")


def _members(path: Path) -> list[str]:
    """The names of an .npz file's members. Raises DataError."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise DataError(f"{path} is not a readable .npz file: {' '.join(str(error).split())[:200]}") from None
