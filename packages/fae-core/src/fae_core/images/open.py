"""Opening image sources: folders, parquet files, WebDataset shards, ADM's .npz files, the built-in photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

from fae_core.documents import require_regular
from fae_core.errors import DataError
from fae_core.folders import IMAGE_LABELS, IMAGE_METADATA
from fae_core.images.formats import SHARD_SUFFIXES, SUFFIXES, printable
from fae_core.images.shards import shard_name
from fae_core.images.source import ImageSource
from fae_core.images.splits import absent_parts, files_of_split
from fae_core.images.tell import log_on_first_process
from fae_core.places import exists, expand, is_pattern, is_remote, local_path, split_slice

_PHOTOGRAPHS = "photographs"


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
      "https://host/train-{0000..0099}.tar" (see `fae_core.images.shards`), signed addresses among them. split: as for a
      folder of such files.
    - an .npz file as ADM writes it: arr_0 uint8 (N, H, W, 3), arr_1 labels.
    - one image file.
    - "photographs": the eight colour photographs inside scikit-image (needs fae-core[demo]), each a class of its own.
    - any of these followed by a slice, as in "train.parquet[:45000]", "photos[-100:]" or "photos[::4]".

    What exists under a name with a slice or a range in it is meant as it is.

    Other files in a folder or shard are skipped. A warning counts those that look like an image or a caption and are
    not read, and names one.

    Args:
        source: a path, an address, or an ImageSource, which is returned as it is.
        split: which part of the data set, where the source holds several; what has no parts refuses it.

    Raises:
        DataError: there is nothing to read, files of several splits or kinds are together, or labels do not match.
        MissingPackage: an extra is not installed.
    """
    if isinstance(source, ImageSource):
        if split is not None:
            raise DataError(f"an ImageSource has no split {split!r}; it was chosen when it was opened")
        return source
    if not isinstance(source, (str, Path)) or not str(source):
        what = "an empty name" if isinstance(source, str) else f"a {type(source).__name__}"
        raise DataError(f"images are opened from a path, an address or an ImageSource, not from {what}")
    opened = _open(str(source), split)
    opened.origin = str(source)
    return opened


def _open(source: str, split: str | None) -> ImageSource:
    """The images of a path or an address."""
    name, part = split_slice(source)
    if part is not None:
        whole = open_images(name, split)
        chosen = range(len(whole))[part]
        if not chosen:
            raise DataError(f"{source} selects none of {len(whole)} images")
        return whole.select(chosen)
    path = _path_of(source)
    if path is not None and path.is_dir():
        return _open_folder(path, split)
    if is_pattern(source):
        files = expand(source if is_remote(source) else str(local_path(source)))
        return _open_shards(files_of_split(files, split, source))
    if split is not None:
        raise DataError(f"{source} has no split {split!r}; folders and patterns of shards may have some")
    if source == _PHOTOGRAPHS:
        from fae_core.images.photographs import Photographs

        return Photographs()
    if path is None:
        return _open_shards([source])
    require_regular(path, DataError)
    if path.suffix in SHARD_SUFFIXES:
        return _open_shards([path])
    if path.suffix == ".npz":
        from fae_core.images.npz import NpzImages

        return NpzImages(path)
    if path.suffix.lower() in SUFFIXES:
        from fae_core.images.folder import ImageFile

        return ImageFile(path)
    raise DataError(f"{path} is neither a folder nor a .parquet, .tar, .npz or image file")


def require_source(source: str) -> None:
    """Raise DataError where a source is a path and nothing is there, or an empty folder; nothing else is looked at."""
    name, part = split_slice(source)
    if part is not None:
        require_source(name)
    elif source:
        _path_of(source)


def _path_of(source: str) -> Path | None:
    """The path of a source, where something has to be; None for an address, a pattern and the photographs."""
    if source == _PHOTOGRAPHS or is_remote(source) or is_pattern(source):
        return None
    path = local_path(source)
    if not exists(source):
        raise DataError(
            f'{printable(path)} does not exist; give an image folder, a .parquet or .npz file, or "photographs"'
        )
    if path.is_dir() and next(path.iterdir(), None) is None:
        raise DataError(f"{printable(path)} holds no images: it is empty")
    return path


def _open_shards(files: Sequence[str | Path]) -> ImageSource:
    """The images of shards of one kind."""
    suffix = PurePath(shard_name(str(files[0]))).suffix
    if suffix not in SHARD_SUFFIXES:
        raise DataError(f"{files[0]}: patterns and remote addresses name .tar or .parquet files")
    if suffix == ".tar":
        from fae_core.images.tar import TarImages

        return TarImages(files)
    from fae_core.images.parquet import ParquetImages

    return ParquetImages(files)


def _open_folder(path: Path, split: str | None) -> ImageSource:
    """The images of a folder of shards or of image files."""
    kinds = {suffix: _visible(path, f"*{suffix}") for suffix in SHARD_SUFFIXES}
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
    for files in kinds.values():
        if files:
            chosen = files_of_split(files, split, str(path))
            if (absent := absent_parts(chosen)) is not None:
                log_on_first_process(f"{path}: {absent}")
            return _open_shards(chosen)
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
        if file.suffix not in SHARD_SUFFIXES and (
            kind in (*SUFFIXES, *SHARD_SUFFIXES, ".tgz")
            or ".tar" in suffixes
            or file.name in (IMAGE_LABELS, IMAGE_METADATA)
        ):
            found.append(file)
    return found + [file for suffix in SHARD_SUFFIXES for file in _visible(folder, f"*/*{suffix}")]


def _visible(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder that are not hidden, nor in a hidden folder of it, by name."""
    found = folder.glob(pattern)
    return sorted(file for file in found if not any(p.startswith(".") for p in file.relative_to(folder).parts))
