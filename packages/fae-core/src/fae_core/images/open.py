"""Opening image sources: folders, parquet files, WebDataset shards, ADM's .npz files, the built-in photographs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fae_core.documents import require_regular
from fae_core.errors import DataError
from fae_core.folders import IMAGE_LABELS, IMAGE_METADATA
from fae_core.images.formats import SUFFIXES, printable
from fae_core.images.shards import expand, is_remote
from fae_core.images.source import ImageSource
from fae_core.images.splits import absent_parts, files_of_split
from fae_core.images.tell import log_on_first_process
from fae_core.places import split_slice

_SHARDS = (".parquet", ".tar")
_PATTERN = re.compile(r"\{\d{1,18}\.\.\d{1,18}\}")


def open_images(source: str | Path | ImageSource, split: str | None = None) -> ImageSource:
    """The images of a source:

    - a folder of images: flat, or one subfolder per class; labels.json, or dataset.json of StyleGAN and EDM, gives
      labels by file name instead; a classes.json in it gives the class order and names. split: a subfolder of it, such
      as "train". Captions: a metadata.jsonl in it with "file_name" and "caption" or "text", or a list "captions", or
      NAME.txt beside every image, in upper or lower case.
    - a .parquet file, or a folder of them, with Hugging Face's image feature (needs fae-core[data]); a column of
      strings, or of lists of strings, "caption", "text", "captions" or "txt" gives captions. split: the start of the
      files' names, or a word in them.
    - WebDataset's .tar shards: one, or a folder of them, with a split as for .parquet files. Labels: NAME.cls.
      Captions: NAME.json with a list "captions", else NAME.txt, else NAME.json with a text "caption" or "text".
    - a pattern for many .tar or .parquet files, such as "train-{0000..0099}.tar"; also on other machines, as in
      "https://host/train-{0000..0099}.tar" (see `fae_core.images.shards`).
    - an .npz file as ADM writes it: arr_0 uint8 (N, H, W, 3), arr_1 labels.
    - one image file.
    - "photographs": the eight colour photographs inside scikit-image (needs fae-core[demo]), each a class of its own.
    - any of these followed by a slice, as in "train.parquet[:45000]", "photos[-100:]" or "photos[::4]".

    Other files in a folder or shard are skipped. A warning counts those that look like an image or a caption and are
    not read, and names one.

    Args:
        source: a path, an address, or an ImageSource, which is returned as it is.
        split: which part of the data set, where the source holds several.

    Raises:
        DataError: there is nothing to read, files of several splits or kinds are together, or labels do not match.
        MissingPackage: an extra is not installed.
    """
    if isinstance(source, ImageSource):
        return source
    if not isinstance(source, (str, Path)) or not str(source):
        what = "an empty name" if isinstance(source, str) else f"a {type(source).__name__}"
        raise DataError(f"images are opened from a path, an address or an ImageSource, not from {what}")
    opened = _open(source, split)
    opened.origin = str(source)
    return opened


def _open(source: str | Path, split: str | None) -> ImageSource:
    """The images of a path or an address."""
    path, part = split_slice(str(source))
    if part is not None:
        whole = open_images(path, split)
        chosen = range(len(whole))[part]
        if not chosen:
            raise DataError(f"{source} selects none of {len(whole)} images")
        return whole.select(chosen)
    if str(source) == "photographs":
        from fae_core.images.photographs import Photographs

        return Photographs()
    if is_remote(str(source)) or _PATTERN.search(str(source)):
        return _open_pattern(str(source))
    path = Path(source).expanduser()
    _require_there(path)
    if path.is_dir():
        return _open_folder(path, split)
    require_regular(path, DataError)
    if split is not None:
        raise DataError(f"{path} is one file and has no split {split!r}")
    if path.suffix in _SHARDS:
        return _open_shards([path], path.suffix)
    if path.suffix == ".npz":
        from fae_core.images.npz import NpzImages

        return NpzImages(path)
    if path.suffix.lower() in SUFFIXES:
        from fae_core.images.folder import ImageFile

        return ImageFile(path)
    raise DataError(f"{path} is neither a folder nor a .parquet, .tar, .npz or image file")


def require_source(source: str) -> None:
    """Raise DataError where a source is a path and nothing is there, or an empty folder; nothing else is looked at."""
    path, part = split_slice(source)
    if part is not None:
        require_source(path)
    elif source and source != "photographs" and not is_remote(source) and not _PATTERN.search(source):
        _require_there(Path(source).expanduser())


def _require_there(path: Path) -> None:
    if not _exists(path):
        raise DataError(
            f'{printable(path)} does not exist; give an image folder, a .parquet or .npz file, or "photographs"'
        )
    if path.is_dir() and next(path.iterdir(), None) is None:
        raise DataError(f"{printable(path)} holds no images: it is empty")


def _open_pattern(pattern: str) -> ImageSource:
    """The images of the shards that a pattern or an address names."""
    files, suffix = expand(pattern), Path(pattern).suffix
    if suffix not in _SHARDS:
        raise DataError(f"{pattern}: patterns and remote addresses name .tar or .parquet files")
    return _open_shards(files, suffix)


def _open_shards(files: Sequence[str | Path], suffix: str) -> ImageSource:
    """The images of shards of one kind."""
    if suffix == ".tar":
        from fae_core.images.tar import TarImages

        return TarImages(files)
    from fae_core.images.parquet import ParquetImages

    return ParquetImages(files)


def _open_folder(path: Path, split: str | None) -> ImageSource:
    """The images of a folder of shards or of image files."""
    kinds = {suffix: _visible(path, f"*{suffix}") for suffix in _SHARDS}
    if all(kinds.values()):
        several = " and ".join(f"{len(files)} {suffix} files ({files[0].name})" for suffix, files in kinds.items())
        raise DataError(
            f"{path} holds {several}; name one kind by a pattern such as {path}/{{0000..0099}}.tar, or move one"
        )
    if any(kinds.values()) and (loose := _beside_shards(path)):
        log_on_first_process(
            f"{path} is read for its shards; {len(loose)} other files of images, labels or captions are left out, such "
            f"as {printable(loose[0].relative_to(path))}"
        )
    for suffix, files in kinds.items():
        if files:
            chosen = files_of_split(files, split)
            if (absent := absent_parts(chosen)) is not None:
                log_on_first_process(f"{path}: {absent}")
            return _open_shards(chosen, suffix)
    if split is not None:
        if not (path / split).is_dir():
            raise DataError(f"{path} has no split {split!r}")
        return _open_folder(path / split, None)
    from fae_core.images.folder import FolderImages

    return FolderImages(path)


def _beside_shards(folder: Path) -> list[Path]:
    """The files in a folder of shards that hold images, labels or captions and are not read with them.

    They are loose images, shards that are compressed, have an upper-case suffix or are in subfolders, and files that
    are read beside loose images alone.
    """
    found = []
    for file in _visible(folder, "*"):
        suffixes = [suffix.lower() for suffix in file.suffixes]
        kind = suffixes[-1] if suffixes else ""
        if file.suffix not in _SHARDS and (
            kind in (*SUFFIXES, *_SHARDS, ".tgz") or ".tar" in suffixes or file.name in (IMAGE_LABELS, IMAGE_METADATA)
        ):
            found.append(file)
    return found + [file for suffix in _SHARDS for file in _visible(folder, f"*/*{suffix}")]


def _exists(path: Path) -> bool:
    """Whether there is a file or folder of that name."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds a zero byte
        return False


def _visible(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder that are not hidden, nor in a hidden folder of it, by name."""
    found = folder.glob(pattern)
    return sorted(file for file in found if not any(p.startswith(".") for p in file.relative_to(folder).parts))
