"""WebDataset's tar shards: members with one name up to its first dot are one sample (0001.jpg, 0001.cls, 0001.txt).

A shard is scanned once for the places of its members; the result is kept in the cache folder. After that any sample is
one read at a known place, so the order of training, resuming at an exact sample and sharing among processes need no
streaming state.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from fae_core.errors import DataError
from fae_core.folders import cache_folder
from fae_core.images.captions import CAPTIONS_KEY, LazyTexts, join_captions, json_object, one_caption
from fae_core.images.classes import NO_LABEL, check_labels, read_classes
from fae_core.images.decode import decode_image
from fae_core.images.formats import SUFFIXES
from fae_core.images.read_ahead import read_ahead
from fae_core.images.shards import ShardFiles, shard_name
from fae_core.images.source import ImageSource
from fae_core.images.tar_index import INDEX_VERSION, ShardIndex, read_index, scan, write_index
from fae_core.images.tell import log_on_first_process
from fae_core.places import is_remote
from fae_core.progress import progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from fae_core.files.digests import Digests

_OPEN_SHARDS = 64
_THREADS = 8  # that index shards


class TarImages(ImageSource):
    """The images of plain .tar shards, local or remote (see `fae_core.images.shards`), in the order of the files given.

    `blocks` are the samples of each shard, by which training orders its reading. `labels` come from .cls members,
    `captions` from .json members with a list "captions", else from .txt members, else from .json members with a text
    "caption" or "text", where every sample has one.

    Args:
        files: paths or addresses of the shards.

    Raises:
        DataError: a shard is damaged or compressed, there are no images, or some samples alone have labels.
    """

    _of_process = ("_indices", "_open", "_lock")

    def __init__(self, files: Sequence[str | Path]) -> None:
        self.files = [str(file) for file in files]
        self._local = ShardFiles()
        self._begin_in_process()
        shards = range(len(self.files))
        with progress(len(shards), "indexing shards", enabled=len(shards) > 16) as bar:
            labels, self.blocks, texts, left_out, unread = [], [], [], [], []
            threads = min(_THREADS, len(shards))
            for shard, index in read_ahead(self._load_index, shards, threads=threads, ahead=4 * threads):
                if shard < _OPEN_SHARDS:
                    self._indices[shard] = index
                self.blocks.append(len(index))
                labels.append(index.label)
                texts.append(index.text[:, 1] >= 0)
                left_out += [(shard, index)] if index.left_out[0] else []
                unread += [(shard, index)] if len(index.unread_name) else []
                bar.advance()
        self._starts = np.concatenate([[0], np.cumsum(self.blocks)])
        if left_out:
            shard, index = left_out[0]
            count, name = sum(int(other.left_out[0]) for _, other in left_out), index.left_out_name.tobytes().decode()
            log_on_first_process(
                f"{count} members of the shards are left out, such as {self._where(shard)}/{name[:80]}: they are no "
                "part of a sample, which is an image and what shares its name up to the first dot"
            )
        if not len(self):
            raise DataError(f"{self.files[0]} holds no images ({', '.join(sorted(SUFFIXES))})")
        self._set_labels(np.concatenate(labels))
        self._set_captions(np.concatenate(texts))
        if unread and self.labels is None and self.captions is None:
            shard, index = unread[0]
            log_on_first_process(
                "images without labels and captions are read; other members of their samples are left out, such as "
                f"{self._where(shard)}/{index.unread_name.tobytes().decode()[:80]} (labels are numbers in .cls "
                'members, captions .txt members, or "caption", "text" or "captions" in .json members that are valid, '
                "without NaN)"
            )

    def _begin_in_process(self) -> None:
        self._indices: OrderedDict[int, ShardIndex] = OrderedDict()
        self._open: OrderedDict[int, IO[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, index: int) -> Image:
        return decode_image(self.encoded(index), self.name(index))

    def encoded(self, index: int) -> bytes:
        shard, row = self._locate(index)
        offset, length = self._index(shard).image[row]
        return self._bytes(shard, int(offset), int(length))

    def name(self, index: int) -> str:
        shard, row = self._locate(index)
        return f"{self._where(shard)}/{self._keys(shard)[row]}"

    def content(self, digests: Digests, indices: Sequence[int] | None = None) -> Iterator[str]:
        places = [] if indices is None else [self._locate(index) for index in indices]
        touched = range(len(self.files)) if indices is None else sorted({shard for shard, _ in places})
        yield from digests.of_many([self.files[shard] for shard in touched])
        yield "" if indices is None else f"{places}"

    def caption(self, index: int) -> str:
        """The captions of a sample as one text (see `split_captions`).

        Raises:
            DataError: it is not UTF-8 or no list of texts, or the shard cannot be read.
        """
        shard, row = self._locate(index)
        places = self._index(shard)
        offset, length = places.text[row]
        try:
            text = self._bytes(shard, int(offset), int(length)).decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise DataError(f"the caption of {self.name(index)} is not UTF-8 text") from None
        if not places.listed[row]:
            return text
        where = f"the captions of {self.name(index)}"
        entry = json_object(text, where)
        return join_captions(entry.get(CAPTIONS_KEY, [one_caption(entry)]), where)

    def _where(self, shard: int) -> str:
        """What names and messages call a shard."""
        return shard_name(self.files[shard])

    def _locate(self, index: int) -> tuple[int, int]:
        """A sample's shard and its row in the shard's index."""
        place = range(len(self))[index]
        shard = int(np.searchsorted(self._starts, place, side="right")) - 1
        return shard, place - int(self._starts[shard])

    def _keys(self, shard: int) -> list[str]:
        """The names of a shard's samples."""
        return self._index(shard).keys.tobytes().decode().split("\n")

    def _bytes(self, shard: int, offset: int, length: int) -> bytes:
        """A part of a shard."""
        file = self._file(shard)
        data = os.pread(file.fileno(), length, offset)
        if len(data) != length:
            raise DataError(f"{self.files[shard]} is shorter than its index says; it was cut off or replaced")
        return data

    def _file(self, shard: int) -> IO[bytes]:
        """A shard, open for reading; some stay open."""
        with self._lock:
            if shard in self._open:
                self._open.move_to_end(shard)
                return self._open[shard]
        opened = self._local.open(self.files[shard])
        with self._lock:
            if len(self._open) >= _OPEN_SHARDS:
                # Not closed: a thread that is reading from it keeps it open until it is done.
                self._open.popitem(last=False)
            return self._open.setdefault(shard, opened)

    def _index(self, shard: int) -> ShardIndex:
        """A shard's index; some stay in memory."""
        with self._lock:
            if shard in self._indices:
                self._indices.move_to_end(shard)
                return self._indices[shard]
        index = self._load_index(shard)
        if len(index) != self._starts[shard + 1] - self._starts[shard]:
            raise DataError(f"{self.files[shard]} has changed since it was opened")
        with self._lock:
            self._indices[shard] = index
            if len(self._indices) > _OPEN_SHARDS:
                self._indices.popitem(last=False)
        return index

    def _load_index(self, shard: int) -> ShardIndex:
        """A shard's index, from the cache folder or by scanning the shard."""
        file = self.files[shard]
        try:
            identity = f"{INDEX_VERSION} {self._local.identity(file)}"
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror}") from None
        cached = cache_folder() / "tar-index" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.safetensors"
        index = read_index(cached)
        if index is None:
            with self._local.open(file) as opened:
                index = scan(opened, file)
            write_index(cached, index)
        return index

    def _set_captions(self, present: np.ndarray) -> None:
        """Set captions where all samples have one; log where some have."""
        self.captions = LazyTexts(self.caption, range(len(self))) if present.all() else None
        if present.any() and not present.all():
            missing = np.flatnonzero(~present)
            log_on_first_process(
                f"{len(missing)} of {len(present)} samples have no .txt member and no captions in a .json member "
                f"(valid, without NaN), such as {self.name(int(missing[0]))}: no captions"
            )

    def _set_labels(self, labels: np.ndarray) -> None:
        """Set labels and class names, or raise DataError where some samples alone have a label."""
        if (labels == NO_LABEL).any():
            if (labels != NO_LABEL).any():
                missing = int(np.flatnonzero(labels == NO_LABEL)[0])
                raise DataError(f"some samples have a .cls member and others do not, such as {self.name(missing)}")
            folders = sorted({key.rpartition("/")[0] for key in self._keys(0)})
            if len(folders) > 1:
                log_on_first_process(
                    f"{self.files[0]}: no labels, for there are no .cls members; the {len(folders)} folders in "
                    f"it, such as {folders[-1][:80]}, are not read as classes"
                )
            return
        listed = None if is_remote(self.files[0]) else read_classes(Path(self.files[0]).parent)
        self.labels = check_labels(labels.tolist(), len(listed.names) if listed else None, self.files[0])
        self.classes = listed.names if listed else None
