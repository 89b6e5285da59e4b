"""`fae check`: what a report says, how images are read with it, and that it is of these images as they are now."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from fae_core.commands.groups import invoke
from fae_core.errors import DataError, FAEError, FolderInUse, InvalidFile
from fae_core.files import hold
from fae_core.images import ImageSource, open_images, open_surveyed, readable_source
from fae_core.images import survey as module
from fae_core.images.identity import content_identity
from fae_core.images.survey import survey


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAE_CACHE", str(tmp_path / "cache"))


def picture(path: Path, shade: int, size: tuple[int, int] = (40, 32), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, shade if mode == "L" else (shade, 0, 0)).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes; of cats one is broken and two are the same, of dogs one is grey, one small and one a cat."""
    data = tmp_path / "data"
    for number, shade in enumerate((10, 20, 20, 30)):
        picture(data / "cat" / f"{number}.png", shade)
    (data / "cat" / "2.jpg").write_bytes(b"\xff\xd8 broken")
    picture(data / "dog" / "0.png", 200, mode="L")
    picture(data / "dog" / "1.png", 210, size=(20, 8))
    picture(data / "dog" / "2.png", 10)
    return data


def check(data: Path, out: Path, side: int = 16) -> dict:
    survey(open_images(data), out, data=str(data), side=side)
    return json.loads(out.read_text())


def test_a_report_counts_and_names_what_is_broken_odd_small_or_there_twice(data: Path, tmp_path: Path) -> None:
    report = check(data, tmp_path / "report.json")
    assert (report["images"], report["readable"]) == (8, 7)
    assert [one["name"].rpartition("/")[2] for one in report["broken"]] == ["2.jpg"]
    assert "2.jpg" in report["broken"][0]["reason"]
    assert report["modes"] == {"RGB": 6, "L": 1}
    assert report["odd_modes"]["named"] == [{"name": f"{data}/dog/0.png", "mode": "L"}]
    assert report["small"]["named"] == [{"name": f"{data}/dog/1.png", "size": [20, 8]}]
    assert report["classes"] == {"cat": 4, "dog": 3}
    assert report["sizes"]["width"] == {"least": 20, "median": 40, "largest": 40}
    assert report["duplicates"]["images"] == 2
    assert [(group["images"], group["several_classes"]) for group in report["duplicates"]["groups"]] == [
        (2, True),
        (2, False),
    ]
    assert report["bytes"] == sum(path.stat().st_size for path in data.rglob("*.*"))
    assert not list(tmp_path.glob(".*.progress"))


def test_with_a_report_broken_images_are_left_out_and_without_it_replaced(data: Path, tmp_path: Path) -> None:
    check(data, tmp_path / "report.json")
    chosen = readable_source(data, survey=tmp_path / "report.json")
    assert len(chosen) == 7 and not any("2.jpg" in chosen.name(i) for i in range(7))
    assert chosen.labels == [0, 0, 0, 0, 1, 1, 1]
    everything = readable_source(data)
    assert len(everything) == 8
    broken = next(i for i in range(8) if "2.jpg" in everything.name(i))
    assert everything.read(broken).getpixel((0, 0)) == everything.read(broken + 1).getpixel((0, 0))
    assert everything.place(broken) == broken + 1


def test_the_content_in_a_report_is_that_of_the_images_left(data: Path, tmp_path: Path) -> None:
    report = check(data, tmp_path / "report.json")
    assert report["identity"]["content"] == content_identity(open_surveyed(data, report=tmp_path / "report.json"))


def test_images_that_changed_since_or_are_others_are_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    check(data, out)
    os.utime(data / "dog" / "0.png", (1, 1))
    with pytest.raises(InvalidFile, match=r"have changed since .*report\.json was written.*survey them again"):
        open_surveyed(data, report=out)
    picture(data / "dog" / "9.png", 1)
    with pytest.raises(InvalidFile, match="is about 8 images, and there are 9 now"):
        open_surveyed(data, report=out)
    for text in ("{}", '{"format": "fae-survey-1"}', '{"format": "other"}'):
        out.write_text(text)
        with pytest.raises(InvalidFile, match="no report of `fae check`, or is damaged"):
            open_surveyed(data, report=out)
    with pytest.raises(FAEError, match=r"absent\.json"):
        open_surveyed(data, report=tmp_path / "absent.json")


def test_a_process_that_gets_surveyed_images_knows_their_content(data: Path, tmp_path: Path) -> None:
    check(data, tmp_path / "report.json")
    copy = shutil.copytree(data, tmp_path / "copy")  # other files: the report's content is not taken for theirs
    for place in (data, copy):
        source = readable_source(place, survey=tmp_path / "report.json")
        found = pickle.loads(pickle.dumps(source))  # noqa: S301 - as a spawned process gets it
        assert found.identity.text() == source.identity.text() == content_identity(source)


def test_a_moved_folder_is_known_to_its_report(data: Path, tmp_path: Path) -> None:
    check(data, tmp_path / "report.json")
    data.rename(tmp_path / "moved")
    assert len(open_surveyed(tmp_path / "moved", report=tmp_path / "report.json")) == 7


class Counted(ImageSource):
    """Images of a source; says how many were read, and is stopped as by Ctrl-C where it should be."""

    def __init__(self, source: ImageSource, stop_at: int | None = None) -> None:
        self.source, self.stop_at, self.read_so_far = source, stop_at, 0
        self.labels, self.classes = source.labels, source.classes

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Image.Image:
        return self.source.read(index)

    def encoded(self, index: int) -> bytes | None:
        if index == self.stop_at:
            raise KeyboardInterrupt
        self.read_so_far += 1
        return self.source.encoded(index)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def content(self, digests, indices=None):
        return self.source.content(digests, indices)


def test_an_interrupted_check_goes_on_where_it_stopped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 2)
    whole = survey(open_images(data), tmp_path / "whole.json", data="data", side=16)
    out = tmp_path / "report.json"
    with pytest.raises(KeyboardInterrupt):
        survey(Counted(open_images(data), stop_at=6), out, data="data", side=16, threads=1)
    assert not out.exists() and out.with_name(".report.json.progress").is_file()
    again = Counted(open_images(data))
    resumed = survey(again, out, data="data", side=16, threads=1)
    assert again.read_so_far < 8
    assert {**resumed, "identity": None} == {**whole, "identity": None}
    assert resumed["identity"]["blocks"] == whole["identity"]["blocks"]


def test_a_line_of_the_notes_that_is_out_of_place_is_not_counted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where two processes have written them, on a file system without locks."""
    monkeypatch.setattr(module, "_CHUNK", 2)
    whole = survey(open_images(data), tmp_path / "whole.json", data="data", side=16)
    out, notes = tmp_path / "report.json", tmp_path / ".report.json.progress"
    with pytest.raises(KeyboardInterrupt):
        survey(Counted(open_images(data), stop_at=6), out, data="data", side=16, threads=1)
    head, first, *others = notes.read_text().splitlines(keepends=True)
    notes.write_text("".join([head, first, first, *others]))
    assert survey(open_images(data), out, data="data", side=16) == whole


def test_two_checks_do_not_write_one_report(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    with ThreadPoolExecutor(1) as other, hold(out), pytest.raises(FolderInUse):
        other.submit(check, data, out).result()
    check(data, out)


def test_a_file_that_is_not_of_a_check_is_kept(data: Path, tmp_path: Path) -> None:
    (tmp_path / ".report.json.progress").write_text("mine")
    with pytest.raises(FAEError, match="is no file of `fae check`"):
        check(data, tmp_path / "report.json")
    assert (tmp_path / ".report.json.progress").read_text() == "mine"


def test_a_set_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"none of the 3 images can be read; the first: .*0\.png"):
        check(folder, tmp_path / "report.json")
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_files_with_many_images_are_surveyed_too(kind: str, tmp_path: Path) -> None:
    if kind == "npz":
        import numpy as np

        path = tmp_path / "set.npz"
        np.savez(path, arr_0=np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3))
        count = 3
    else:
        arrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet

        picture(tmp_path / "one.png", 7)
        good, path = (tmp_path / "one.png").read_bytes(), tmp_path / "set.parquet"
        cells = [{"bytes": data, "path": None} for data in (good, b"broken", good)]
        pyarrow.parquet.write_table(arrow.table({"image": cells}), path)
        count = 2
    check(path, tmp_path / "report.json")
    chosen = open_surveyed(path, report=tmp_path / "report.json")
    assert len(chosen) == count and all(chosen.read(i).size for i in range(count))
    assert content_identity(chosen) == json.loads((tmp_path / "report.json").read_text())["identity"]["content"]


def test_the_command_writes_the_report_says_what_it_found_and_keeps_an_older_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.json"
    invoke(["check", str(data), "--out", str(out), "--size", "16"])
    text = capsys.readouterr().out
    assert "8 images" in text and "1 cannot be read" in text and "2.jpg" in text
    assert "2 classes of 3 to 4 images" in text and f"--survey {out}" in text
    with pytest.raises(FAEError, match="overwrite"):
        invoke(["check", str(data), "--out", str(out)])
    invoke(["check", str(data), "--out", str(out), "--overwrite", "--json"])
    assert json.loads(capsys.readouterr().out)["readable"] == 7


def test_the_message_about_changed_images_has_the_command_that_surveys_them_again(tmp_path: Path) -> None:
    split, out = tmp_path / "my images" / "train", tmp_path / "report.json"
    split.mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(split / "a.png")
    invoke(["check", str(split.parent), "--split", "train", "--out", str(out)])
    Image.new("RGB", (16, 16), "red").save(split / "b.png")
    with pytest.raises(InvalidFile, match="is about 1 images, and there are 2 now") as caught:
        open_surveyed(split.parent, "train", out)
    told = re.search("`fae (.*)`", str(caught.value))
    invoke(shlex.split(told[1]))
    assert len(open_surveyed(split.parent, "train", out)) == 2
