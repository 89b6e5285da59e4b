"""WebDataset's tar shards: members that share a name up to the first dot of it are one sample (0001.jpg, 0001.cls, 0001.txt).

A shard is scanned once, for where its members lie; the result is kept in the cache folder. After that any sample is one read at
a known place, so the order of training, resuming at an exact sample and sharing among processes need no streaming state.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

import numpy as np

from fae_core.digests import FileDigests
from fae_core.errors import DataError, FAEError
from fae_core.images.classes import check_labels, read_classes
from fae_core.images.decode import SUFFIXES, decode_image
from fae_core.images.shards import ShardFiles, cache_folder, is_remote
from fae_core.images.sources import ImageSource
from fae_core.progress import progress
from fae_core.redact import redact

if TYPE_CHECKING:
    from PIL.Image import Image

_OPEN_SHARDS = 64
_MAX_TEXT = 2**16  # bytes of a .cls or .txt member
_NO_LABEL = -1
_INDEX_VERSION = 1


@dataclass(frozen=True)
class ShardIndex:
    """Where the samples of one tar lie. All arrays have one row per sample, in the tar's order.

    image, text: (N, 2) int64, offset and length of the image and of the .txt member (length -1: none).
    label: (N,) int64 from .cls, -1 where there is none. keys: "\\n"-joined names, as UTF-8 bytes.
    """

    image: np.ndarray
    text: np.ndarray
    label: np.ndarray
    keys: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


class TarImages(ImageSource):
    """The images of plain .tar shards, local or remote (see `fae_core.images.shards`), in the order of the files given.

    blocks: samples per shard, by which training orders its reading. labels come from .cls members, captions from .txt ones,
    where every sample has one. Raises DataError where a shard is damaged, compressed, or holds no images.
    """

    def __init__(self, files: Sequence[str | Path]) -> None:
        self.files = [str(file) for file in files]
        self._local = ShardFiles()
        self._indices: OrderedDict[int, ShardIndex] = OrderedDict()
        self._open: OrderedDict[int, IO[bytes]] = OrderedDict()
        self._lock = threading.Lock()
        with progress(len(self.files), "indexing shards", enabled=len(self.files) > 16) as bar, _pool() as pool:
            labels, self.blocks, texts = [], [], True
            for shard, index in enumerate(pool.map(self._load_index, range(len(self.files)))):
                if shard < _OPEN_SHARDS:
                    self._indices[shard] = index
                self.blocks.append(len(index))
                labels.append(index.label)
                texts = texts and bool((index.text[:, 1] >= 0).all())
                bar.advance()
        self._starts = np.concatenate([[0], np.cumsum(self.blocks)])
        if not len(self):
            raise DataError(f"{self.files[0]} holds no images ({', '.join(sorted(SUFFIXES))})")
        self._set_labels(np.concatenate(labels))
        self.captions = _Captions(self) if texts else None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, index: int) -> Image:
        shard, row = self._locate(index)
        offset, length = self._index(shard).image[row]
        return decode_image(self._bytes(shard, int(offset), int(length)), self.name(index))

    def name(self, index: int) -> str:
        shard, row = self._locate(index)
        return f"{redact(self.files[shard])}/{self._index(shard).keys.tobytes().decode().split(chr(10))[row]}"

    def content(self, digests: FileDigests, indices: Sequence[int] | None = None) -> Iterator[str]:
        places = [] if indices is None else [self._locate(index) for index in indices]
        touched = range(len(self.files)) if indices is None else sorted({shard for shard, _ in places})
        yield from digests.of_many([self.files[shard] for shard in touched])
        yield "" if indices is None else f"{places}"

    def caption(self, index: int) -> str:
        """The sample's .txt member. Raises DataError where it is not UTF-8."""
        shard, row = self._locate(index)
        offset, length = self._index(shard).text[row]
        try:
            return self._bytes(shard, int(offset), int(length)).decode().strip()
        except UnicodeDecodeError:
            raise DataError(f"the caption of {self.name(index)} is not UTF-8 text") from None

    def __getstate__(self) -> dict:
        return {"files": self.files}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["files"])

    def _locate(self, index: int) -> tuple[int, int]:
        place = range(len(self))[index]
        shard = int(np.searchsorted(self._starts, place, side="right")) - 1
        return shard, place - int(self._starts[shard])

    def _bytes(self, shard: int, offset: int, length: int) -> bytes:
        file = self._file(shard)
        data = os.pread(file.fileno(), length, offset)
        if len(data) != length:
            raise DataError(f"{self.files[shard]} is shorter than its index says; it was cut off or replaced")
        return data

    def _file(self, shard: int) -> IO[bytes]:
        with self._lock:
            if shard in self._open:
                self._open.move_to_end(shard)
                return self._open[shard]
        opened = self._local.open(self.files[shard])
        with self._lock:
            if len(self._open) >= _OPEN_SHARDS:
                # Let go, not closed: a thread that reads from it just now keeps it open until it is done.
                self._open.popitem(last=False)
            return self._open.setdefault(shard, opened)

    def _index(self, shard: int) -> ShardIndex:
        with self._lock:
            if shard in self._indices:
                self._indices.move_to_end(shard)
                return self._indices[shard]
        index = self._load_index(shard)
        if len(index) != self.blocks[shard]:
            raise DataError(f"{self.files[shard]} has changed since it was opened")
        with self._lock:
            self._indices[shard] = index
            if len(self._indices) > _OPEN_SHARDS:
                self._indices.popitem(last=False)
        return index

    def _load_index(self, shard: int) -> ShardIndex:
        """From the cache folder, or by scanning the shard, which is then cached."""
        file = self.files[shard]
        try:
            identity = f"{_INDEX_VERSION} {self._local.identity(file)}"
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror}") from None
        cached = cache_folder() / "tar-index" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.safetensors"
        index = _read_index(cached)
        if index is None:
            with self._local.open(file) as opened:
                index = scan(opened, file)
            _write_index(cached, index)
        return index

    def _set_labels(self, labels: np.ndarray) -> None:
        if (labels == _NO_LABEL).any():
            if (labels != _NO_LABEL).any():
                missing = int(np.flatnonzero(labels == _NO_LABEL)[0])
                raise DataError(f"some samples have a .cls member and others do not, such as {self.name(missing)}")
            return
        listed = None if is_remote(self.files[0]) else read_classes(Path(self.files[0]).parent)
        self.classes = listed.names if listed else None
        self.labels = check_labels(labels.tolist(), len(listed.names) if listed else None, self.files[0])


class _Captions(Sequence):
    """Captions by index, read when asked for."""

    def __init__(self, source: TarImages) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> str:
        return self._source.caption(index)


def scan(file: IO[bytes], name: str) -> ShardIndex:
    """Find the samples of an open tar. Nothing is extracted. `name` is what errors call it.

    Raises DataError where it is compressed or no tar, ends in the middle of a member, or holds links, devices, sparse files,
    absolute names or names with "..": no shard that a writer of shards makes has them.
    """
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    texts: dict[str, int] = {}
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                _refuse_strange(member, name, size)
                if not member.isreg():
                    continue
                key, _, extension = _split(member.name)
                if not extension or PurePosixPath(key).name.startswith("."):
                    continue
                found = samples.setdefault(key, {})
                place = (member.offset_data, member.size)
                if f".{extension}" in SUFFIXES:
                    found.setdefault("image", place)
                elif extension == "txt" and member.size <= _MAX_TEXT:
                    found["text"] = place
                elif extension == "cls":
                    texts[key] = _class_of(file, member, name)
                archive.members = []  # tarfile keeps every member it has seen
            # tarfile takes the end of a file for the end of the archive, wherever it comes.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise DataError(f"{name} is cut off: the archive's end mark is missing")
    except DataError:
        raise
    except Exception as error:  # tarfile raises many types on damaged files
        raise DataError(f"{name} is not a readable plain .tar: {' '.join(str(error).split())[:200]}") from None
    whole = {key: found for key, found in samples.items() if "image" in found}
    return ShardIndex(
        np.array([found["image"] for found in whole.values()], dtype=np.int64).reshape(-1, 2),
        np.array([found.get("text", (0, -1)) for found in whole.values()], dtype=np.int64).reshape(-1, 2),
        np.array([texts.get(key, _NO_LABEL) for key in whole], dtype=np.int64),
        np.frombuffer("\n".join(whole).encode(), dtype=np.uint8),
    )


def _refuse_strange(member: tarfile.TarInfo, name: str, size: int) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\n" in member.name:
        raise DataError(f"{name} holds the member {member.name[:80]!r}, whose name leads out of the archive")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise DataError(f"{name} holds the member {member.name[:80]!r}, which is a link or a special file")
    if member.offset_data + member.size > size:
        raise DataError(f"{name} is cut off in the member {member.name[:80]!r}")


def _split(member: str) -> tuple[str, str, str]:
    """A member's key and extension: its path up to the first dot of its last part, and what follows, in lower case."""
    folder, slash, last = member.rpartition("/")
    stem, dot, extension = last.partition(".")
    return f"{folder}{slash}{stem}", dot, extension.lower()


def _class_of(file, member: tarfile.TarInfo, name: str) -> int:
    before = file.tell()
    file.seek(member.offset_data)
    text = file.read(min(member.size, 32)).strip()
    file.seek(before)
    if not text.isdigit():
        raise DataError(f"{name}: {member.name[:80]!r} does not hold a class index but {text!r}")
    return int(text)


def _read_index(path: Path) -> ShardIndex | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        stored = load_file(path)
        return ShardIndex(stored["image"], stored["text"], stored["label"], stored["keys"])
    except (OSError, SafetensorError, KeyError):
        return None


def _write_index(path: Path, index: ShardIndex) -> None:
    from safetensors.numpy import save

    from fae_core.files import write_atomic

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, save(vars(index)))
    except (OSError, FAEError):
        return  # without a cache, the next opening scans again


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(8)
