"""A hash of a set of images by content: the same wherever the images are, and different as soon as one image differs.

What is made of images (a store of latents, a training run, statistics of a reference) records it, and compares it when
it is resumed or used again. Paths and names are not part of it.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

from fae_core.files.digests import FileDigests
from fae_core.images.shards import cache_folder, remote_version
from fae_core.progress import progress

if TYPE_CHECKING:
    from fae_core.images.source import ImageSource


def content_identity(source: ImageSource, *, show: bool = False) -> str:
    """Hexadecimal SHA-256 of a source's images, in order, with their labels, class names and captions.

    Every file is read once; its hash is then kept in the cache folder ($FAE_CACHE) with its size, times and inode. Of a
    remote file the server's own version is hashed (ETag, checksum, time of change), or its bytes where there is none.

    Args:
        source: the images.
        show: whether to show a progress bar over large sets.

    Raises:
        DataError: a file cannot be read.
    """
    digest = hashlib.sha256(f"{len(source)} images\x1e".encode())
    cache = cache_folder() / "digests.sqlite"
    with (
        FileDigests(cache, remote_version) as digests,
        progress(len(source), "content of the images", enabled=show) as bar,
    ):
        for part in source.content(digests):
            digest.update(part.encode(errors="surrogatepass") + b"\x1e")
            bar.advance()
    if source.labels is not None:
        digest.update(b"labels" + np.asarray(source.labels, dtype=np.int64).tobytes())
    digest.update(json.dumps(source.classes).encode())
    return digest.hexdigest()
