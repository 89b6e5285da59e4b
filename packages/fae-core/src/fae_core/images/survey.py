"""A survey of a set of images (`fae check`), and reading the images with its report: `open_surveyed`.

The survey decodes every image. It is resumable: what was found is kept beside the report until that is written. The
report is about files with certain names, sizes and times of modification; others are not read with it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from fae_core.commands.running import command_line
from fae_core.documents import read_json
from fae_core.errors import DataError, FAEError, InvalidFile
from fae_core.files import disk_errors, hold, write_json
from fae_core.images.decode import decode_image
from fae_core.images.findings import Findings, Row
from fae_core.images.folder import FolderImages
from fae_core.images.formats import FORMATS
from fae_core.images.identity import Identity, content_identity, facts_of, identity_by_facts, is_small, joined
from fae_core.images.open import open_images
from fae_core.images.read_ahead import read_ahead
from fae_core.images.source import ImageSource, pixels_digest
from fae_core.images.tell import log_on_first_process
from fae_core.machine import available_threads
from fae_core.progress import progress

FORMAT = "fae-survey-1"
_HEAD = f'{{"format": "{FORMAT}", "files": '  # how the notes of an interrupted survey begin
_MOST_REPORT = 2**30  # bytes
_CHUNK = 1024  # images whose rows are written together


def survey(source: ImageSource, out: Path, *, data: str, side: int, threads: int | None = None) -> dict[str, Any]:
    """Decode every image and write a report. An interrupted survey continues where it stopped.

    Args:
        source: the images.
        out: the file of the report.
        data: what the report calls the images.
        side: images whose shorter side has fewer pixels are named as small.
        threads: how many images are decoded at the same time; None: as many as this process has cores.

    Returns:
        The report.

    Raises:
        DataError: the images change meanwhile, or none can be read.
        FolderInUse: another process writes the report.
        FAEError: the report cannot be written.
    """
    with hold(out):
        return _survey_held(source, out, data, side, threads or available_threads())


def _survey_held(source: ImageSource, out: Path, data: str, side: int, threads: int) -> dict[str, Any]:
    """The survey, whose report and notes no other process writes."""
    files, facts = facts_of(source, show=True)
    notes, found = out.with_name(f".{out.name}.progress"), Findings(source, side)
    with disk_errors(notes):
        begun = _read_notes(notes, files)
        if begun is None:
            notes.write_text(_head(files), encoding="utf-8")
            begun = []
        for row in begun:
            found.add(row)
        todo = range(len(begun), len(source))
        reading = read_ahead(lambda index: _look_at(source, index), todo, threads=threads, ahead=8 * threads)
        with progress(len(source), "checking images", done=len(begun)) as bar, notes.open("a", encoding="utf-8") as log:
            rows: list[Row] = []
            for index, row in reading:
                found.add(row)
                rows.append(row)
                if len(rows) == _CHUNK or index == todo[-1]:
                    log.write(json.dumps([index + 1 - len(rows), rows]) + "\n")
                    log.flush()
                    rows = []
                bar.advance()
    if facts_of(source, show=True)[0] != files:
        notes.unlink()
        raise DataError(f"the files of {data} changed while they were checked; check them again")
    if not found.readable:
        raise DataError(f"none of the {len(source)} images can be read; the first: {found.broken[0]['reason']}")
    report = {"format": FORMAT, "data": data, **found.report(), "identity": _identity(source, found, facts.blocks)}
    write_json(out, report)
    notes.unlink()
    return report


def open_surveyed(
    data: str | Path | ImageSource, split: str | None = None, report: str | Path | None = None
) -> ImageSource:
    """The images of `open_images(data, split)`; with a report of a survey those that it found readable.

    Names, sizes and times of modification of all files are compared with the report's.

    Args:
        data: as `open_images` takes it.
        split: as `open_images` takes it.
        report: a file that `fae check` wrote; None to take all images.

    Raises:
        DataError: as `open_images`.
        InvalidFile: the report is absent or damaged, or the images are others or have changed since.
    """
    source = open_images(data, split)
    if report is None:
        return source
    stored = read_json(report, max_bytes=_MOST_REPORT)
    try:
        if stored["format"] != FORMAT:
            raise KeyError("format")
        known, count = dict(stored["identity"]), int(stored["images"])
        blocks, then, content = list(known["blocks"]), str(known["files"]), str(known["content"])
        broken = {int(one["index"]) for one in stored["broken"]}
    except (KeyError, TypeError, ValueError):
        raise InvalidFile(f"{report} is no report of `fae check`, or is damaged") from None
    now, facts = facts_of(source, show=True)
    anew = command_line("check", source.origin or "IMAGES", split=split, out=report, overwrite=True)
    again = f"; survey them again (`{anew}`), or leave --survey {report} out"
    _require_same(source, count, blocks, facts.blocks, report, again)
    chosen = source.select([i for i in range(count) if i not in broken]) if broken else source
    if broken:
        log_on_first_process(f"{len(broken)} of {count} images are left out: {report} says that they cannot be read")
        now, facts = facts_of(chosen, show=True)
    unchanged = now == then if facts.count else content_identity(chosen) == content
    if not facts.count and not unchanged:
        raise InvalidFile(f"{report} is about other images{again}")
    known = Identity(None if is_small(facts) else now, content)
    chosen.identity = known if unchanged else identity_by_facts(chosen, now, facts, show=True)
    return chosen


def _require_same(
    source: ImageSource, count: int, then: Sequence[str], now: Sequence[str], report: str | Path, again: str
) -> None:
    """Raise InvalidFile, which ends with `again`, unless a report is about these files."""
    if len(source) != count:
        raise InvalidFile(f"{report} is about {count} images, and there are {len(source)} now{again}")
    for block, (old, new) in enumerate(zip(then, now, strict=False)):
        if old != new:
            name = source.name(min(block * 1024, count - 1))
            raise InvalidFile(f"files have changed since {report} was written, in the 1,024 from {name} on{again}")
    if len(then) != len(now):
        raise InvalidFile(f"{report} is about other files{again}")


def _look_at(source: ImageSource, index: int) -> Row:
    """Decode an image."""
    digest, mode, size = "", "", 0
    try:
        data = source.encoded(index)
        if data is None:
            image, mode, digest = source.read(index), "RGB", pixels_digest(source, index)
        else:
            digest, size = hashlib.sha256(data).hexdigest(), len(data)
            image = decode_image(data, source.name(index))
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                mode = opened.mode
    except DataError as error:
        return Row(digest, mode, 0, 0, size, str(error))
    return Row(digest, mode, *image.size, size, None)


def _read_notes(notes: Path, files: str) -> list[Row] | None:
    """What an interrupted survey of the same files found; None where there is none. The rest of the notes is cut off.

    After a first line about the files, each line has the index of an image and the rows of `_CHUNK` images from it on.

    Raises FAEError where the file is not one of a survey.
    """
    if not notes.is_file():
        return None
    rows: list[Row] = []
    with notes.open("rb+") as lines:
        head = lines.readline().decode(errors="replace")
        if head and not head.startswith(_HEAD):
            raise FAEError(f"{notes} is no file of `fae check`; move it away, or give another --out")
        if head != _head(files):
            return None
        whole = lines.tell()
        with suppress(ValueError, TypeError):  # the last line may have been cut off; earlier versions wrote no index
            for line in iter(lines.readline, b""):
                first, found = json.loads(line)
                if first != len(rows) or len(found) != _CHUNK or not line.endswith(b"\n"):
                    break
                rows += [Row(*row) for row in found]
                whole = lines.tell()
        lines.truncate(whole)
    return rows


def _head(files: str) -> str:
    """The first line of the notes of a survey of these files."""
    return f"{_HEAD}{json.dumps(files)}}}\n"


def _identity(source: ImageSource, found: Findings, blocks: list[str]) -> dict[str, Any]:
    """What tells the readable images apart from others, and what tells whether a file has changed."""
    chosen = source if not found.broken else source.select(found.readable)
    if isinstance(source, FolderImages):
        content = joined(chosen, chosen.content(_Known(found.digests)))
    else:
        content = content_identity(chosen, show=True)
    return {"content": content, "files": facts_of(chosen)[0], "blocks": blocks}


class _Known:
    """Digests that are known, in the order in which they are asked for."""

    def __init__(self, digests: Iterable[bytes]) -> None:
        self._digests = iter(digests)

    def of(self, file: str | Path) -> str:
        """The next one."""
        return next(self._digests).hex()

    def of_many(self, files: Sequence[str | Path], unreadable: str | None = None) -> Iterator[str]:
        """The next ones."""
        return (next(self._digests).hex() for _ in range(len(files)))

    def of_texts(self, texts: Iterable[str], files: Sequence[str] | None) -> Iterator[str]:
        """The texts themselves."""
        yield from texts
