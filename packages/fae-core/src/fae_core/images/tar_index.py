"""The places of the samples in a tar shard: found by one scan, in which nothing is extracted, and cached."""

from __future__ import annotations

import os
import tarfile
from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np

from fae_core.documents import parse_json
from fae_core.errors import DataError, FAEError
from fae_core.images.captions import CAPTION_KEYS, CAPTIONS_KEY, one_caption
from fae_core.images.classes import NO_LABEL
from fae_core.images.decode import check_bytes
from fae_core.images.formats import OTHER_SUFFIXES, SUFFIXES

INDEX_VERSION = 4
_MAX_TEXT = 2**16  # bytes of a .txt member
_MAX_JSON = 2**20  # bytes of a .json member with captions
_MAX_LABEL = 64  # bytes that are read of a .cls member


class _Place(NamedTuple):
    """A member's data in the tar, and its name."""

    offset: int
    size: int
    name: str


@dataclass(frozen=True)
class ShardIndex:
    """The places of the samples in one tar, in its order.

    Attributes:
        image: (N, 2) int64, offset and length of each image in bytes.
        text: (N, 2) int64, the same of the .json members with a list "captions", else of the .txt members, else of the
            .json members with a text "caption" or "text"; length -1 where there is none.
        listed: (N,) bool, whether `text` is that of a .json member.
        label: (N,) int64 from the .cls members, -1 where there is none.
        keys: the samples' names as UTF-8 bytes, joined by line feeds.
        left_out: (1,) int64, how many members look like a part of a sample and are in none.
        left_out_name: the name of one of them, as UTF-8 bytes.
        unread_name: the name of a member of a sample of which nothing is read, as UTF-8 bytes; empty where there is
            none.
    """

    image: np.ndarray
    text: np.ndarray
    listed: np.ndarray
    label: np.ndarray
    keys: np.ndarray
    left_out: np.ndarray
    left_out_name: np.ndarray
    unread_name: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


def scan(file: IO[bytes], name: str) -> ShardIndex:
    """Find the samples of a tar. Nothing is extracted.

    Args:
        file: the tar, open for reading.
        name: what errors call it.

    Raises:
        DataError: it is compressed or no tar, ends in the middle of a member, or holds links, devices, sparse files,
            absolute names or names with "..", which writers of shards do not make.
    """
    samples: dict[str, dict[str, _Place]] = {}
    described: list[tuple[str, _Place]] = []
    left_out: list[str] = []
    unread: list[tuple[str, str]] = []
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                _refuse_strange(member, name, size)
                key, _, extension = _split(member.name)
                if not member.isreg() or not extension or PurePosixPath(member.name).name.startswith("."):
                    continue
                kind = "image" if f".{extension}" in SUFFIXES else extension
                if kind in ("image", "txt", "cls"):
                    _add(samples.setdefault(key, {}), kind, member, name)
                elif kind == "json":
                    described.append((key, _Place(member.offset_data, member.size, member.name)))
                elif PurePosixPath(member.name).suffix.lower() in SUFFIXES | OTHER_SUFFIXES:
                    left_out.append(member.name)
                else:
                    unread.append((key, member.name))
                # tarfile keeps every member that it has read.
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue]  # typeshed lacks it
            for key, place in described:
                if key not in samples or not _has_captions(file, place, name, alone="txt" not in samples[key]):
                    unread.append((key, place.name))
                    continue
                if samples[key].setdefault("captions", place) is not place:
                    raise DataError(f"{name} has captions of {_shown(key)} twice, in {_shown(place.name)}")
            labels = [_class_of(file, found["cls"], name) if "cls" in found else NO_LABEL for found in samples.values()]
            # tarfile accepts the end of a file as the end of the archive, wherever it comes.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise DataError(f"{name} is cut off: the archive's end mark is missing")
    except DataError:
        raise
    except Exception as error:  # tarfile raises many types on damaged files
        raise DataError(f"{name} is not a readable plain .tar: {' '.join(str(error).split())[:200]}") from None
    rows = [row for row, found in enumerate(samples.values()) if "image" in found]
    left_out += [member.name for found in samples.values() if "image" not in found for member in found.values()]
    keys, whole = list(samples), list(samples.values())
    return ShardIndex(
        np.array([whole[row]["image"][:2] for row in rows], dtype=np.int64).reshape(-1, 2),
        np.array(
            [whole[row].get("captions", whole[row].get("txt", (0, -1)))[:2] for row in rows], dtype=np.int64
        ).reshape(-1, 2),
        np.array(["captions" in whole[row] for row in rows], dtype=np.bool_),
        np.array([labels[row] for row in rows], dtype=np.int64),
        _packed([keys[row] for row in rows]),
        np.array([len(left_out)], dtype=np.int64),
        _packed(left_out[:1]),
        _packed([member for key, member in unread if "image" in samples.get(key, ())][:1]),
    )


def _add(found: dict[str, _Place], kind: str, member: tarfile.TarInfo, name: str) -> None:
    """Add a member to its sample. Raises DataError where the sample has one of that kind already."""
    if kind in found:
        one, two = found[kind].name, member.name
        what = f"holds {_shown(one)} twice" if one == two else f"has {_shown(one)} and {_shown(two)} for one sample"
        raise DataError(f"{name} {what}; give each sample a name of its own, up to its first dot")
    if kind == "txt" and member.size > _MAX_TEXT:
        raise DataError(f"{name}: {_shown(member.name)} is no caption: it has more than {_MAX_TEXT} bytes")
    if kind == "image":
        check_bytes(member.size, f"{name}/{_shown(member.name)}")
    found[kind] = _Place(member.offset_data, member.size, member.name)


def _packed(names: Sequence[str]) -> np.ndarray:
    """Names as UTF-8 bytes, joined by line feeds. Names are for messages; what is no UTF-8 becomes escapes."""
    text = "\n".join(names).encode(errors="surrogateescape").decode(errors="backslashreplace")
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _shown(member: str) -> str:
    """A member's name, for messages."""
    return ascii(member[:80])


def _refuse_strange(member: tarfile.TarInfo, name: str, size: int) -> None:
    """Raise DataError for a member that is no plain file or folder inside the tar."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\n" in member.name:
        raise DataError(f"{name} holds the member {_shown(member.name)}, whose name leads out of the archive")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise DataError(f"{name} holds the member {_shown(member.name)}, which is a link or a special file")
    if member.offset_data + member.size > size:
        raise DataError(f"{name} is cut off in the member {_shown(member.name)}")


def _split(member: str) -> tuple[str, str, str]:
    """A member's key and extension: its path up to the first dot of its last part, and what follows, in lower case."""
    folder, slash, last = member.rpartition("/")
    stem, dot, extension = last.partition(".")
    return f"{folder}{slash}{stem}", dot, extension.lower()


def _has_captions(file: IO[bytes], member: _Place, name: str, alone: bool) -> bool:
    """Whether a .json member is an object with the key "captions", or, where it is alone, a text "caption" or "text".

    Raises DataError for a damaged one that names "captions". One that names the others may be valid but for a NaN, as
    Python writes it: such shards have been read for their images.
    """
    if member.size > _MAX_JSON:
        return False
    file.seek(member.offset)
    content = file.read(member.size)
    if not any(f'"{key}"'.encode() in content for key in (CAPTIONS_KEY, *(CAPTION_KEYS if alone else ()))):
        return False
    try:
        entry = parse_json(content.decode("utf-8-sig"))
    except ValueError as error:  # UnicodeDecodeError is one
        if f'"{CAPTIONS_KEY}"'.encode() not in content:
            return False
        raise DataError(f"{name}: {_shown(member.name)} is not JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(entry, dict):
        return False
    return CAPTIONS_KEY in entry or (alone and isinstance(one_caption(entry), str))


def _class_of(file: IO[bytes], member: _Place, name: str) -> int:
    """The label in a .cls member. Raises DataError."""
    file.seek(member.offset)
    text = file.read(min(member.size, _MAX_LABEL)).removeprefix(BOM_UTF8).strip()
    if text == b"-1":
        return NO_LABEL
    if not text.isdigit() or int(text) >= 2**31:
        raise DataError(f"{name}: {_shown(member.name)} does not hold a class index but {text[:40]!r}")
    return int(text)


def read_index(path: Path) -> ShardIndex | None:
    """A cached index; None where there is none, or it is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        stored = load_file(path)
        return ShardIndex(**stored)
    except (OSError, SafetensorError, TypeError):
        return None


def write_index(path: Path, index: ShardIndex) -> None:
    """Cache an index, if the disk can be written."""
    from safetensors.numpy import save

    from fae_core.files import write_atomic

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, save(vars(index)))
    except (OSError, FAEError):
        return  # without a cache, the next opening scans again
