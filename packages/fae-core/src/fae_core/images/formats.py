"""Which image files are read, by name. Needs no Pillow, so that a wrong path is told before that is imported."""

from __future__ import annotations

import os
from pathlib import Path

# Formats that Pillow decodes itself, without an external program (as for EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
SHARD_SUFFIXES = (".parquet", ".tar")  # of files that hold many images
# Images that are not read: readers count them and name one; other files are skipped without a message.
OTHER_SUFFIXES = frozenset(
    {".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".tga", ".ico", ".svg", ".psd", ".exr", ".hdr", ".dng", ".cr2"}
    | {".nef", ".arw", ".pfm", ".eps", ".qoi"}
)


def printable(path: str | Path) -> str:
    """A path for messages: bytes in it that are not UTF-8 are written as escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")
