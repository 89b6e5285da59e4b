"""A set of images is told apart by its content: not by its path, its names, its sizes or its times."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from fae_core.errors import DataError
from fae_core.files.digests import FileDigests
from fae_core.images import ImageSource, open_images
from fae_core.images.identity import content_identity


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)


def encoded(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed)).save(buffer, "BMP")  # every one has the same size
    return buffer.getvalue()


def write_folder(path: Path, seeds: list[int], captions: str = "") -> Path:
    path.mkdir(parents=True)
    for place, seed in enumerate(seeds):
        (path / f"{place}.bmp").write_bytes(encoded(seed))
        if captions:
            (path / f"{place}.txt").write_text(f"{captions} {place}")
    return path


def write_tar(path: Path, seeds: list[int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for place, seed in enumerate(seeds):
            info = tarfile.TarInfo(f"{place}.bmp")
            info.size = len(encoded(seed))
            archive.addfile(info, io.BytesIO(encoded(seed)))
    return path


def write_npz(path: Path, seeds: list[int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, arr_0=np.stack([pixels(seed) for seed in seeds]))
    return path


def write_parquet(path: Path, seeds: list[int]) -> Path:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": encoded(seed), "path": None} for seed in seeds]
    pyarrow.parquet.write_table(arrow.table({"image": cells}), path, compression="none", write_statistics=False)
    return path


def identity(source: str | Path | ImageSource) -> str:
    return content_identity(open_images(source))


KINDS = {
    "folder": ("set", write_folder),
    "tar": ("set.tar", write_tar),
    "npz": ("set.npz", write_npz),
    "parquet": ("set.parquet", write_parquet),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_content_elsewhere_is_the_same_and_another_picture_is_not(kind: str, tmp_path: Path) -> None:
    name, write = KINDS[kind]
    first = identity(write(tmp_path / "a" / name, [1, 2, 3]))
    moved = tmp_path / "b" / f"renamed{Path(name).suffix}"
    moved.parent.mkdir()
    (shutil.copytree if (tmp_path / "a" / name).is_dir() else shutil.copy)(tmp_path / "a" / name, moved)
    assert identity(moved) == first
    assert identity(Path(os.path.relpath(moved))) == first
    assert identity(write(tmp_path / "c" / name, [1, 2, 4])) != first
    assert identity(write(tmp_path / "d" / name, [1, 3, 2])) != first
    assert identity(write(tmp_path / "e" / name, [1, 2])) != first


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_rewritten_with_its_old_size_and_times_is_another(kind: str, tmp_path: Path) -> None:
    name, write = KINDS[kind]
    path = write(tmp_path / name, [1, 2, 3])
    file = path / "1.bmp" if path.is_dir() else path
    old = time.time() - 1000
    os.utime(file, (old, old))
    first, size = identity(path), file.stat().st_size
    other = write(tmp_path / "other" / name, [1, 7, 3])
    file.write_bytes((other / "1.bmp" if other.is_dir() else other).read_bytes())
    os.utime(file, (old, old))
    assert file.stat().st_size == size
    assert identity(path) != first


def test_digests_are_remembered_only_of_files_that_have_settled(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"one")
    with FileDigests(cache / "digests.sqlite", str) as digests:
        first = digests.of(file)
    file.write_bytes(b"two")  # within the same tick of a coarse clock perhaps
    with FileDigests(cache / "digests.sqlite", str) as digests:
        assert digests.of(file) != first
    assert (cache / "digests.sqlite").is_file()


def test_without_a_cache_folder_or_with_a_damaged_one_files_are_read(tmp_path: Path, cache: Path) -> None:
    path = write_folder(tmp_path / "set", [1, 2])
    first = identity(path)
    (cache / "digests.sqlite").write_bytes(b"no database" * 100)
    assert identity(path) == first
    shutil.rmtree(cache)
    cache.write_text("a file")
    assert identity(path) == first


def test_labels_class_names_and_captions_belong_to_the_content(tmp_path: Path) -> None:
    plain = identity(write_folder(tmp_path / "plain", [1, 2]))
    labelled = write_folder(tmp_path / "labelled", [1, 2])
    (labelled / "labels.json").write_text(json.dumps({"0.bmp": 0, "1.bmp": 1}))
    other = write_folder(tmp_path / "other", [1, 2])
    (other / "labels.json").write_text(json.dumps({"0.bmp": 1, "1.bmp": 0}))
    described = [identity(write_folder(tmp_path / word, [1, 2], word)) for word in ("red", "blue")]
    assert len({plain, identity(labelled), identity(other), *described}) == 5
    for names in (["cat", "dog"], ["dog", "cat"]):
        for name, seed in zip(names, (1, 2), strict=True):
            write_folder(tmp_path / "-".join(names) / name, [seed])
    assert identity(tmp_path / "cat-dog") != identity(tmp_path / "dog-cat")


@pytest.mark.parametrize("kind", KINDS)
def test_a_selection_is_known_by_what_it_selects(kind: str, tmp_path: Path) -> None:
    name, write = KINDS[kind]
    images = open_images(write(tmp_path / name, [1, 2, 3, 4]))
    chosen = [content_identity(images.select(part)) for part in ([0, 1], [1, 0], [2, 3], [0, 1, 2])]
    assert len(set(chosen)) == 4
    assert content_identity(images.select([0, 1])) == chosen[0]


def test_a_source_that_names_no_files_is_known_by_its_pixels() -> None:
    class Drawn(ImageSource):
        def __init__(self, seeds: list[int]) -> None:
            self.seeds = seeds

        def __len__(self) -> int:
            return len(self.seeds)

        def read(self, index: int) -> Image.Image:
            if self.seeds[index] < 0:
                raise DataError("unreadable")
            return Image.fromarray(pixels(self.seeds[index]))

        def name(self, index: int) -> str:
            return f"drawn {index}"

    assert content_identity(Drawn([1, 2])) == content_identity(Drawn([1, 2]))
    assert len({content_identity(Drawn(seeds)) for seeds in ([1, 2], [2, 1], [1, -1], [1])}) == 4


def test_a_remote_shard_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    remote = fsspec.filesystem("memory")
    seen = []
    for seeds in ([1, 2], [3, 4]):  # the same names and sizes
        remote.pipe("/identity/r.tar", write_tar(tmp_path / "r.tar", seeds).read_bytes())
        images = open_images("memory://identity/r.tar")
        seen.append((content_identity(images), np.asarray(images.read(0)).tolist()))
        assert np.array_equal(np.asarray(images.read(0)), pixels(seeds[0]))
    assert seen[0] != seen[1]
    assert seen[0][0] != seen[1][0]
