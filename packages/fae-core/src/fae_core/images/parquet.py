"""Images inside parquet files with Hugging Face's image feature: a struct {bytes, path} beside an integer label."""

from __future__ import annotations

import bisect
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fae_core.documents import require_regular
from fae_core.errors import DataError, FAEError, MissingPackage
from fae_core.images.budget import check_unpacked
from fae_core.images.captions import join_captions
from fae_core.images.classes import check_labels, class_list, read_classes
from fae_core.images.columns import Columns, choose_columns
from fae_core.images.decode import decode_image
from fae_core.images.shards import open_remote, reason, shard_name
from fae_core.images.source import ImageSource
from fae_core.images.tell import log_on_first_process
from fae_core.places import is_remote

if TYPE_CHECKING:
    from PIL.Image import Image

    from fae_core.files.digests import Digests

_CACHE_BYTES = 2**30


class ParquetImages(ImageSource):
    """The rows of parquet files, in order.

    Images stay encoded, in row groups, of which up to 1 GiB are kept in memory: random access is fast over files of
    that size; larger ones have `blocks`, by which training orders its reading. Remote files (see
    `fae_core.images.shards`) are read where they are, a row group at a time. A column named caption, text or captions
    gives captions: strings, or lists of them. Class names come from classes.json beside the files or from the files'
    own metadata.

    Args:
        files: the files, all with the same columns and classes.

    Raises:
        DataError: a file is damaged, has no images, or differs from the first in its columns or classes.
        MissingPackage: pyarrow is not installed.
    """

    _of_process = ("_cache", "_lock")

    def __init__(self, files: Sequence[str | Path]) -> None:
        self.files = list(files)
        self._groups: list[tuple[str | Path, int]] = []  # (file, row group), in order
        counts: list[int] = []
        size = 0
        labels: list[Any] = []
        captions: list[str] = []
        columns: Columns | None = None
        for file in self.files:
            where = str(file)
            with _open(file) as opened:
                found = choose_columns(opened.schema_arrow, where)
                columns = columns or found
                _require_same(columns, found, str(self.files[0]), where)
                self._groups += [(file, group) for group in range(opened.num_row_groups)]
                groups = [opened.metadata.row_group(group) for group in range(opened.num_row_groups)]
                _check_unpacked(groups, columns.image, where)
                counts += [group.num_rows for group in groups]
                size += sum(group.total_byte_size for group in groups)
                if columns.label is not None:
                    labels += opened.read(columns=[columns.label]).column(0).to_pylist()
                if columns.caption is not None:
                    cells = opened.read(columns=[columns.caption]).column(0).to_pylist()
                    captions += [_text(cell, f"{where}: captions") for cell in cells]
        assert columns is not None  # there is at least one file
        for note in columns.notes:
            log_on_first_process(note)
        self._column = columns.image
        self._starts = list(itertools.accumulate(counts, initial=0))
        self.blocks = counts if size > _CACHE_BYTES else None
        if not self._starts[-1]:
            raise DataError(f"{files[0]} holds no rows")
        self.captions = captions or None
        self._set_classes(labels if columns.label is not None else None, columns.classes)
        self._begin_in_process()

    def _begin_in_process(self) -> None:
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int) -> Image:
        return decode_image(self.encoded(index), self.name(index))

    def encoded(self, index: int) -> bytes:
        cell = self._cell(index)
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes) or not data:
            raise DataError(f"cannot read image {self.name(index)}: the row holds no image bytes")
        return data

    def name(self, index: int) -> str:
        group = self._group(index)
        file = self._groups[group][0]
        first = next(g for g, (owner, _) in enumerate(self._groups) if owner == file)
        return f"{shard_name(str(file))}[{range(len(self))[index] - self._starts[first]}]"

    def content(self, digests: Digests, indices: Sequence[int] | None = None) -> Iterator[str]:
        yield from digests.of_many(self.files)
        yield "" if indices is None else f"{list(indices)}"

    def _group(self, index: int) -> int:
        """The row group of an image."""
        return bisect.bisect_right(self._starts, range(len(self))[index]) - 1

    def _cell(self, index: int) -> Any:
        """What an image's row holds in the image column."""
        group = self._group(index)
        with self._lock:
            if group not in self._cache:
                file, number = self._groups[group]
                with _open(file) as opened:
                    self._cache[group] = opened.read_row_group(number, columns=[self._column]).column(0)
                while len(self._cache) > 1 and sum(column.nbytes for column in self._cache.values()) > _CACHE_BYTES:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(group)
            column = self._cache[group]
        return column[range(len(self))[index] - self._starts[group]].as_py()

    def _set_classes(self, labels: list[Any] | None, names: tuple[str, ...] | None) -> None:
        """Set labels and class names, from classes.json or the files' metadata."""
        where = str(self.files[0])
        listed = None if is_remote(where) else read_classes(Path(self.files[0]).parent)
        if listed and names and listed.names != list(names):
            raise DataError(f"{listed.where} and the metadata of {where} name different classes")
        if listed is None and names:
            listed = class_list(names, where)
        if labels is not None:
            self.labels = check_labels(labels, len(listed.names) if listed else None, where)
            self.classes = listed.names if listed and self.labels is not None else None


@contextmanager
def _open(file: str | Path) -> Iterator[Any]:
    """The opened file; arrow's errors about a damaged one become a DataError."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MissingPackage("reading .parquet files", "fae-core[data]") from None
    try:
        if not is_remote(str(file)):
            require_regular(file, DataError)
        with ParquetFile(open_remote(str(file)) if is_remote(str(file)) else file) as opened:
            yield opened
    except FAEError:
        raise
    except Exception as error:  # several of arrow's types
        raise DataError(f"{file} is not a readable parquet file: {reason(error, str(file))}") from None


def _text(cell: list[str | None] | str | None, where: str) -> str:
    """The text of a cell of captions; what is absent is an empty caption."""
    if isinstance(cell, list):
        return join_captions([text or "" for text in cell] or [""], where)
    return cell or ""


def _require_same(first: Columns, other: Columns, first_file: str, file: str) -> None:
    """Raise DataError, naming the file, where two files of one set have other columns or class names."""
    for kind, names in (("pictures", "image"), ("labels", "label"), ("captions", "caption")):
        one, two = getattr(first, names), getattr(other, names)
        if one != two:
            raise DataError(
                f"{file} has its {kind} in {two or 'no column'}, {first_file} in {one or 'no column'}; they do not all "
                f"have a column of {kind} that is called the same"
            )
    if first.classes != other.classes:
        mine, theirs = other.classes or (), first.classes or ()
        place = next((i for i, pair in enumerate(zip_longest(mine, theirs)) if pair[0] != pair[1]), 0)
        here, there = (repr(names[place])[:40] if place < len(names) else "no name" for names in (mine, theirs))
        raise DataError(f"{file} calls class {place} {here}, {first_file} {there}: the labels of one set mean the same")


def _check_unpacked(groups: list[Any], column: str, where: str) -> None:
    """Raise DataError where a row group, which is read whole, unpacks to far more than its size."""
    for group in groups:
        parts = [group.column(i) for i in range(group.num_columns)]
        mine = [part for part in parts if f"{part.path_in_schema}.".startswith(f"{column}.")]
        check_unpacked(
            sum(part.total_uncompressed_size for part in mine), sum(part.total_compressed_size for part in mine), where
        )
