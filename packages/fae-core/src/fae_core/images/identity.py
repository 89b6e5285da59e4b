"""What tells sets of images apart: their content, and for large sets first the facts about their files.

What is made of images (a store of latents, a training run, statistics of a reference) records it, and compares it when
it is resumed or used again. Paths are not part of it.

- Content is a hash of the bytes of all files, with labels, class names and captions: the same wherever the images are,
  and different as soon as one image differs.
- Facts are size, time of modification, time of change and inode of every file. A file that is written, replaced or put
  back under its old name and times has others; moving the folder leaves them. Copies have others, too, although their
  content is the same, so they are compared by content.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fae_core.errors import DataError, FAEError
from fae_core.files.digests import FileDigests, FileFacts
from fae_core.folders import cache_folder
from fae_core.images.shards import remote_version
from fae_core.progress import progress

if TYPE_CHECKING:
    from fae_core.images.source import ImageSource

# Larger sets are first known by the facts about their files: to hash them would take more than some seconds.
MOST_FILES = 2**15
MOST_BYTES = 2**32
_BY_FILES = re.compile(r"files-([0-9a-f]{64})(?: content-(\S+))?")


def content_identity(source: ImageSource, *, show: bool = False, stopped: Callable[[], bool] | None = None) -> str:
    """Hexadecimal SHA-256 of a source's images, in order, with their labels, class names and captions.

    Every file is read once; its hash is then kept in the cache folder ($FAE_CACHE) with its size, times and inode. Of a
    remote file the server's own version is hashed (ETag, checksum, time of change), or its bytes where there is none.

    Args:
        source: the images.
        show: whether to show a progress bar over large sets.
        stopped: asked after each file, whether to give up; None: never.

    Raises:
        DataError: a file cannot be read.
        Stopped: it was given up.
    """
    cache = cache_folder() / "digests.sqlite"
    with (
        FileDigests(cache, remote_version) as digests,
        progress(len(source), "content of the images", enabled=show, brief=True) as bar,
    ):

        def counted() -> Iterator[str]:
            for part in source.content(digests):
                yield part
                bar.advance()
                if stopped is not None and stopped():
                    raise Stopped("the content of the images is not hashed to its end")

        return joined(source, counted())


def never() -> bool:
    """For what is not given up."""
    return False


class Stopped(FAEError):
    """Hashing was given up before its end."""


def joined(source: ImageSource, parts: Iterator[str]) -> str:
    """A hash of what identifies the files of a source, and of its labels and classes.

    Args:
        source: the images.
        parts: what its `content` gives.
    """
    digest = hashlib.sha256(f"{len(source)} images\x1e".encode())
    for part in parts:
        digest.update(part.encode(errors="surrogatepass") + b"\x1e")
    if source.labels is not None:
        digest.update(b"labels" + np.asarray(source.labels, dtype=np.int64).tobytes())
    digest.update(json.dumps(source.classes).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Identity:
    """What tells a set of images apart, as text: "HASH" by content; of large sets "files-HASH", or both.

    Attributes:
        files: a hash of the facts about its files; None where content alone counts.
        hashed: its hash by content; or what gives it, which may take long and takes what says whether to give up.
    """

    files: str | None
    hashed: str | Callable[[Callable[[], bool]], str]

    def content(self, stopped: Callable[[], bool]) -> str:
        """Its hash by content.

        Args:
            stopped: asked while files are read, whether to give up.

        Raises:
            DataError: a file cannot be read, or has changed meanwhile.
            Stopped: it was given up.
        """
        return self.hashed if isinstance(self.hashed, str) else self.hashed(stopped)

    def text(self, before: str | None = None) -> str:
        """The identity in the form in which it can be compared with another; reads images only where it must.

        Args:
            before: the identity that it will be compared with (`same_images`), where there is one.
        """
        then_files, then_content = (None, None) if before is None else _parts(before)
        if before is not None and self.files is not None and then_files == self.files:
            return before
        if self.files is None or (before is not None and then_files is None):
            return self.content(never)
        if isinstance(self.hashed, str) or then_content is not None:
            return self.with_content(self.content(never))
        return f"files-{self.files}"

    def with_content(self, content: str) -> str:
        """The text of both."""
        return content if self.files is None else f"files-{self.files} content-{content}"

    def joined_with(self, more: str) -> Identity:
        """The identity of the images together with something else.

        Args:
            more: the identity of that; "" for nothing.
        """
        if not more:
            return self
        files = None if self.files is None else hashlib.sha256(f"{self.files} {more}".encode()).hexdigest()
        if isinstance(self.hashed, str):
            return Identity(files, self.hashed + more)
        return Identity(files, lambda stopped: self.content(stopped) + more)


def same_images(one: str, other: str) -> bool:
    """Whether two texts of identities mean the same: by content where both have it, else by their files."""
    (files, content), (other_files, other_content) = _parts(one), _parts(other)
    return (content is not None and content == other_content) or (files is not None and files == other_files)


def has_content(text: str) -> bool:
    """Whether a text of an identity has the content."""
    return _parts(text)[1] is not None


def images_identity(source: ImageSource, *, show: bool = False) -> Identity:
    """What tells a source apart from others. Of large sets no file is read for it.

    Args:
        source: the images.
        show: whether to show progress over large sets.

    Raises:
        DataError: a file cannot be found.
    """
    if source.identity is not None:
        return source.identity
    return identity_by_facts(source, *facts_of(source, show=show), show=show)


def identity_by_facts(source: ImageSource, found: str, files: FileFacts, *, show: bool) -> Identity:
    """The identity of a source whose files have been looked up, and whose content is not known.

    Args:
        source: the images.
        found: the hash that `facts_of` gave of them.
        files: what it counted.
        show: whether to show progress over large sets.
    """
    known = None if is_small(files) else found
    return Identity(known, partial(_unchanged_content, source, known, show))


def _unchanged_content(source: ImageSource, found: str | None, show: bool, stopped: Callable[[], bool]) -> str:
    """The content of images. Raises DataError where they are no more those of which `found` is the hash of facts."""
    hashed = content_identity(source, show=show and stopped is never, stopped=stopped)
    if found is not None and facts_of(source)[0] != found:
        raise DataError("the files of the images changed while they were hashed")
    return hashed


def is_small(files: FileFacts) -> bool:
    """Whether files are few enough to be hashed before anything else is done."""
    return files.count <= MOST_FILES and files.size <= MOST_BYTES


def facts_of(source: ImageSource, *, show: bool = False) -> tuple[str, FileFacts]:
    """A hash of the facts about a source's files, with labels and classes, and what was counted.

    Of a source that does not know its files no image is read, and none is counted.
    """
    with progress(len(source), "looking up files", enabled=show, brief=True) as bar:
        facts = FileFacts(remote_version, bar.advance)

        def parts() -> Iterator[str]:
            for part in source.content(facts):
                if facts.count == 0:  # it decoded an image
                    return
                yield part

        return joined(source, parts()), facts


def _parts(text: str) -> tuple[str | None, str | None]:
    """(files, content) of the text of an identity."""
    found = _BY_FILES.fullmatch(text)
    return (found[1], found[2]) if found else (None, text)
