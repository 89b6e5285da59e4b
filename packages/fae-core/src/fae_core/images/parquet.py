"""Images inside parquet files with Hugging Face's image feature: a struct {bytes, path} beside an integer label."""

from __future__ import annotations

import bisect
import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fae_core.digests import FileDigests
from fae_core.errors import DataError, FAEError, MissingPackage
from fae_core.images.captions import CAPTION_KEYS
from fae_core.images.classes import check_labels, class_list, read_classes
from fae_core.images.decode import decode_image
from fae_core.images.shards import is_remote, open_remote
from fae_core.images.sources import ImageSource
from fae_core.redact import redact

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_CACHE_BYTES = 2**30


class ParquetImages(ImageSource):
    """The rows of parquet files, in order. Images stay encoded, in row groups, of which up to 1 GiB are kept in memory:
    random access is fast over files of that size; larger ones have `blocks`, by which training orders its reading. Remote
    files (see `fae_core.images.shards`) are read where they are, a row group at a time.

    A column of strings named caption or text gives captions. Class names come from classes.json beside the files or from the
    files' own metadata. Raises DataError.
    """

    def __init__(self, files: Sequence[str | Path]) -> None:
        try:
            import pyarrow.parquet
        except ImportError:
            raise MissingPackage("reading .parquet files", "fae-core[data]") from None
        self._parquet = pyarrow.parquet
        self.files = list(files)
        self._groups: list[tuple[str | Path, int]] = []  # (file, row group), in order
        counts: list[int] = []
        size = 0
        labels: list[Any] = []
        captions: list[str] = []
        self._column, label_column, names = "", None, None
        for file in self.files:
            with self._open(file) as opened:
                features = _features(opened.schema_arrow.metadata)
                columns = opened.schema_arrow.names
                self._column = _pick(columns, features, "Image", _IMAGE_COLUMNS)
                if self._column is None:
                    raise DataError(f"{file} has no image column (img or image); it has {', '.join(columns)}")
                label_column = _pick(columns, features, "ClassLabel", _LABEL_COLUMNS)
                names = features.get(label_column, {}).get("names")
                self._groups += [(file, group) for group in range(opened.num_row_groups)]
                groups = [opened.metadata.row_group(group) for group in range(opened.num_row_groups)]
                counts += [group.num_rows for group in groups]
                size += sum(group.total_byte_size for group in groups)
                if label_column is not None:
                    labels += opened.read(columns=[label_column]).column(0).to_pylist()
                caption_column = _text_column(opened.schema_arrow)
                if caption_column is not None:
                    captions += [text or "" for text in opened.read(columns=[caption_column]).column(0).to_pylist()]
        self._starts = list(itertools.accumulate(counts, initial=0))
        self.blocks = counts if size > _CACHE_BYTES else None
        if not self._starts[-1]:
            raise DataError(f"{files[0]} holds no rows")
        if captions and len(captions) != len(self):
            raise DataError(f"{files[0]} and the files beside it do not all have a column of captions")
        self.captions = captions or None
        self._set_classes(labels if label_column is not None else None, names)
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int) -> Image:
        cell = self._cell(index)
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes) or not data:
            raise DataError(f"cannot read image {self.name(index)}: the row holds no image bytes")
        return decode_image(data, self.name(index))

    def name(self, index: int) -> str:
        group = self._group(index)
        file = self._groups[group][0]
        first = next(g for g, (owner, _) in enumerate(self._groups) if owner == file)
        return f"{redact(str(file))}[{range(len(self))[index] - self._starts[first]}]"

    def content(self, digests: FileDigests, indices: Sequence[int] | None = None) -> Iterator[str]:
        yield from digests.of_many(self.files)
        yield "" if indices is None else f"{list(indices)}"

    def _group(self, index: int) -> int:
        return bisect.bisect_right(self._starts, range(len(self))[index]) - 1

    def _cell(self, index: int) -> Any:
        group = self._group(index)
        with self._lock:
            if group not in self._cache:
                file, number = self._groups[group]
                with self._open(file) as opened:
                    self._cache[group] = opened.read_row_group(number, columns=[self._column]).column(0)
                while len(self._cache) > 1 and sum(column.nbytes for column in self._cache.values()) > _CACHE_BYTES:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(group)
            column = self._cache[group]
        return column[range(len(self))[index] - self._starts[group]].as_py()

    def _set_classes(self, labels: list[Any] | None, names: list[str] | None) -> None:
        where = str(self.files[0])
        listed = None if is_remote(where) else read_classes(Path(self.files[0]).parent)
        if listed and names and listed.names != names:
            raise DataError(f"{listed.where} and the metadata of {where} name different classes")
        if listed is None and names:
            listed = class_list(names, where)
        if labels is not None:
            self.classes = listed.names if listed else None
            self.labels = check_labels(labels, len(listed.names) if listed else None, where)

    @contextmanager
    def _open(self, file: str | Path) -> Iterator[Any]:
        """The opened file; whatever arrow says about a damaged one becomes a DataError."""
        try:
            with self._parquet.ParquetFile(open_remote(str(file)) if is_remote(str(file)) else file) as opened:
                yield opened
        except FAEError:
            raise
        except Exception as error:  # several of arrow's types
            reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
            raise DataError(f"{redact(str(file))} is not a readable parquet file: {reason}") from None


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, dict[str, Any]]:
    """Hugging Face's description of the columns, {} where there is none."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    except (ValueError, AttributeError, RecursionError):
        return {}
    return {k: v for k, v in features.items() if isinstance(v, dict)} if isinstance(features, dict) else {}


def _text_column(schema: Any) -> str | None:
    """The column of captions: strings, under a usual name."""
    import pyarrow

    kinds = (pyarrow.types.is_string, pyarrow.types.is_large_string)
    named = (name for name in CAPTION_KEYS if name in schema.names)
    return next((name for name in named if any(kind(schema.field(name).type) for kind in kinds)), None)


def _pick(columns: list[str], features: dict[str, Any], kind: str, names: Sequence[str]) -> str | None:
    """The first column of a feature type, or else of a usual name."""
    typed = [c for c in columns if features.get(c, {}).get("_type") == kind]
    return next(iter([*typed, *(name for name in names if name in columns)]), None)
