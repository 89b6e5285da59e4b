"""PNG files without their texts and colour profiles, which can be huge when unpacked and are not used."""

from __future__ import annotations

import io
import struct
import zlib
from typing import IO

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")
# Texts in which cameras' software writes the orientation, beside eXIf.
_ORIENTED = (b"XML:com.adobe.xmp", b"Raw profile type exif")
_MAX_TEXT = 2**18  # bytes of such a text, unpacked


def without_texts(file: IO[bytes]) -> IO[bytes]:
    """The file as it is, or, of a PNG with texts or a colour profile, a copy in memory of the other chunks.

    The first short text that may hold the orientation stays. Damaged chunks are left to the decoder.

    Args:
        file: an image file of any format, open at its start.

    Returns:
        A file open at its start.
    """
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        file.seek(0)
        return file
    parts, start, place, seen = [], 0, len(_SIGNATURE), set[bytes]()
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        end = place + 12 + length
        if kind in _TEXTS:
            keyword = file.read(min(length, 80)).partition(b"\0")[0]
            file.seek(place + 8)
            if keyword not in _ORIENTED or keyword in seen or not _is_short(file, kind, length):
                parts.append((start, place - start))
                start = end
            seen.add(keyword)
        place = end
        file.seek(place)
    if not parts:
        file.seek(0)
        return file
    whole = io.BytesIO()
    for first, length in (*parts, (start, place - start)):
        file.seek(first)
        whole.write(file.read(length))
    whole.seek(0)
    return whole


def _is_short(file: IO[bytes], kind: bytes, length: int) -> bool:
    """Whether a text has at most `_MAX_TEXT` bytes when it is unpacked."""
    if length > _MAX_TEXT:
        return False
    _, _, rest = file.read(length).partition(b"\0")
    if kind == b"iTXt":
        if rest[:1] != b"\1":
            return True
        rest = rest[1:].split(b"\0", 2)[-1]
    elif kind == b"tEXt":
        return True
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(rest[1:], _MAX_TEXT)
    except zlib.error:
        return False
    return not unpacking.unconsumed_tail
