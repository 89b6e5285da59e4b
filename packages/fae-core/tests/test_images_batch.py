"""Batches and pictures hold the pixels that were asked for; unreadable images are counted and named."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fae_core.errors import DataError, FAEError
from fae_core.images import (
    center_crop,
    draw_grid,
    load_batch,
    open_images,
    readable_images,
    save_grid,
    save_image,
    to_tensor,
)
from fae_core.machine import available_threads


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images, of which 1 and 4 cannot be read."""
    for i in range(6):
        Image.new("RGB", (12 + i, 10), (i * 40, 0, 255)).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:40])
    return tmp_path


def test_a_batch_is_the_images_in_order(folder: Path) -> None:
    source = open_images(folder)
    batch = load_batch(source, [5, 0, 2], (8, 6))
    assert (batch.shape, batch.dtype) == ((3, 3, 8, 6), torch.float32)
    for row, index in zip(batch, [5, 0, 2], strict=True):
        assert torch.equal(row, to_tensor(center_crop(source.read(index), (8, 6))))


def test_threads_change_nothing(folder: Path) -> None:
    source = open_images(folder)
    assert torch.equal(load_batch(source, [0, 2, 3, 5], 8), load_batch(source, [0, 2, 3, 5], 8, threads=3))


def test_by_default_as_many_threads_read_as_the_process_has_cores(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, readers = open_images(folder), set[str]()
    read = source.read
    monkeypatch.setattr(source, "read", lambda index: (readers.add(threading.current_thread().name), read(index))[1])
    cores = available_threads()
    load_batch(source, [0, 2, 3, 5] * 20, 8)
    assert len(readers) <= cores
    assert (threading.current_thread().name in readers) == (cores == 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert available_threads() == max(1, cores // 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert available_threads() == 1


def test_a_batch_with_an_unreadable_image_names_it(folder: Path) -> None:
    with pytest.raises(DataError, match=r"1\.png"):
        load_batch(open_images(folder), [0, 1], 8)
    with pytest.raises(DataError, match="at least one"):
        load_batch(open_images(folder), [], 8)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_survey_counts_and_names_what_it_skips(folder: Path, threads: int) -> None:
    lines: list[str] = []
    tried: list[int] = []
    assert readable_images(open_images(folder), lines.append, threads=threads, progress=tried.append) == [0, 2, 3, 5]
    assert len(lines) == 1
    assert lines[0].startswith("2 of 6 images cannot be read and are skipped:")
    assert "1.png" in lines[0]
    assert "4.png" in lines[0]
    assert tried == list(range(1, 7))


def test_the_survey_is_silent_where_all_is_well(folder: Path) -> None:
    lines: list[str] = []
    assert readable_images(open_images(folder).select([0, 2]), lines.append) == [0, 1]
    assert lines == []


def test_all_unreadable_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match="none of the 2 images can be read"):
        readable_images(open_images(folder).select([1, 4]), print)


def test_a_saved_image_reads_back_exactly(tmp_path: Path) -> None:
    image = torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(0))
    path = save_image(image, tmp_path / "new" / "folder" / "a.png")
    torch.testing.assert_close(to_tensor(Image.open(path)), (image * 255).round() / 255)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_a_grid_places_images_row_by_row() -> None:
    images = torch.arange(5, dtype=torch.float32).div(5)[:, None, None, None].expand(5, 3, 8, 10)
    grid = np.asarray(draw_grid(images, columns=3))
    assert grid.shape == (8 * 2 + 2, 10 * 3 + 2 * 2, 3)
    for index in range(5):
        y, x = index // 3 * 10, index % 3 * 12
        assert (grid[y : y + 8, x : x + 10] == round(index / 5 * 255)).all()
    assert (grid[10:, 24:] == 255).all(), "the empty place is white"


def test_labels_are_drawn_beside_the_images_and_never_over_them(tmp_path: Path) -> None:
    images = torch.full((4, 3, 40, 40), 0.5)
    plain = draw_grid(images, 2)
    texts = {"labels": list("abcd"), "row_labels": ["first", "second"], "column_labels": ["x", "a much too long title"]}
    labelled = draw_grid(images, 2, **texts)
    assert labelled.width > plain.width
    assert labelled.height > plain.height
    pixels = np.asarray(labelled)
    assert (pixels == 128).all(-1).sum() == 4 * 40 * 40
    assert (pixels < 100).any(), "some text is dark"
    assert save_grid(images, tmp_path / "grid.png", 2, **texts).stat().st_size > 100


def test_a_grid_with_the_wrong_number_of_labels_is_an_error() -> None:
    with pytest.raises(FAEError, match="needs 2 row labels, got 3"):
        draw_grid(torch.zeros(4, 3, 8, 8), 2, row_labels=["a", "b", "c"])
    with pytest.raises(FAEError, match=r"needs images \(B, 3, H, W\)"):
        draw_grid(torch.zeros(4, 1, 8, 8), 2)


def test_a_grid_is_no_wider_than_its_images_and_any_label_is_drawn() -> None:
    images = torch.zeros(3, 3, 8, 8)
    assert draw_grid(images, 10**9).size == draw_grid(images, 3).size
    draw_grid(images, 3, ["a\nb", "\ud800", "x" * 10**6])
    with pytest.raises(FAEError, match="draw fewer"):
        draw_grid(torch.zeros(1, 3, 1, 1).expand(20_000, 3, 100, 100), 100)
