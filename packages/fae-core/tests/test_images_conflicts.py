"""A reader never resolves a conflict or drops a sample silently: it is right, refuses, or logs what it leaves out."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fae_core.errors import DataError
from fae_core.images import open_images
from fae_core.images.captions import read_lines
from fae_core.images.identity import content_identity
from fae_core.sampling.prompts import read_prompts

pyarrow = pytest.importorskip("pyarrow", reason="needs fae-core[data]")
IMAGE = {"_type": "Image"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAE_CACHE", str(tmp_path / "cache"))


def png(color: str, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, kind)
    return buffer.getvalue()


def color(source: Any, index: int = 0) -> tuple[int, int, int]:
    return source.read(index).getpixel((0, 0))


def tar(path: Path, members: list[tuple[str | bytes, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name if isinstance(name, str) else name.decode(errors="surrogateescape"))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def parquet(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None) -> Path:
    import pyarrow.parquet

    cells = lambda values: [{"bytes": v, "path": None} if isinstance(v, bytes) else v for v in values]  # noqa: E731
    table = pyarrow.table({k: cells(v) if isinstance(v, list) else v for k, v in columns.items()})
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, compression="zstd")
    return path


def labelled(names: Any) -> dict[str, Any]:
    return {"image": IMAGE, "label": {"_type": "ClassLabel", "names": names}}


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ([("1.png", png("red")), ("1.cls", b"0"), ("1.png", png("blue")), ("1.cls", b"2")], "'1.png' twice"),
        ([("1.png", png("red")), ("1.cls", b"0"), ("1.cls", b"2")], "'1.cls' twice"),
        ([("1.txt", b"a"), ("1.png", png("red")), ("1.txt", b"b")], "'1.txt' twice"),
        ([("0.png", png("black")), ("0.jpg", png("red", "JPEG"))], "'0.png' and '0.jpg'"),
        ([("a/0.PNG", png("black")), ("a/0.png", png("red"))], "'a/0.PNG' and 'a/0.png'"),
        ([("0.png", png("red")), ("0.txt", b"x" * 70_000)], "'0.txt' is no caption"),
        ([("0.png", png("red")), ("0.cls", b"99999999999999999999")], "does not hold a class index"),
        ([("0.png", png("red")), ("0.cls", b"4294967296")], "does not hold a class index"),
        ([("0.png", png("red")), ("0.cls", b"1.0")], "does not hold a class index"),
        ([("0.png", png("red")), ("0.cls", b"True")], "does not hold a class index"),
        ([("0.png", png("red")), ("0.cls", b"0"), ("1.png", png("red")), ("1.cls", b"-1")], "some samples have a .cls"),
    ],
)
def test_a_shard_whose_samples_could_mean_two_things_is_refused(tmp_path: Path, members: list, named: str) -> None:
    for _ in range(2):  # the second time as well: only whole shards are remembered
        with pytest.raises(DataError) as caught:
            open_images(tar(tmp_path / "a.tar", members))
        assert named in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lost", "count"),
    [
        ([("cat_0.5.png", png("red")), ("cat_0.5.cls", b"0")], 1),
        ([("dog.mask.png", png("black")), ("dog.seg.PNG", png("black"))], 2),
        ([("x.avif", b"x")], 1),
        ([("x.cls", b"1"), ("x.txt", b"words")], 2),
    ],
)
def test_members_in_no_sample_are_counted_and_one_is_named(
    tmp_path: Path, lost: list, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tar(tmp_path / "a.tar", [*lost, ("dog.png", png("blue")), ("dog.cls", b"1"), ("README.md", b"")])
    for _ in range(2):  # the index is remembered, and what it leaves out with it
        caplog.clear()
        source = open_images(path)
        assert (len(source), source.labels, color(source)) == (1, [1], (0, 0, 255))
        (line,) = [record.message for record in caplog.records]
        assert line.startswith(f"{count} members") and lost[0][0] in line


def test_a_whole_shard_is_read_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = [
        ("a/0.png", png("red")),
        ("a/0.cls", b"\xef\xbb\xbf3\n"),
        ("a/0.txt", b"\xef\xbb\xbfa dog"),
        ("a/0.json", b"{}"),
    ]
    source = open_images(tar(tmp_path / "a.tar", [*members, ("._0.png", b"Mac"), ("b/", b"")]))
    assert (source.labels, list(source.captions)) == ([3], ["a dog"])
    assert not caplog.records


def test_some_captions_of_a_shard_are_said_to_be_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = open_images(tar(tmp_path / "a.tar", [("0.png", png("red")), ("0.txt", b"a"), ("1.png", png("red"))]))
    assert source.captions is None
    assert "1 of 2 samples have no .txt member" in caplog.text and "a.tar/1" in caplog.text


@pytest.mark.parametrize("key", ["caption", "text"])
def test_a_caption_in_a_json_member_counts_where_there_is_no_text_file(tmp_path: Path, key: str) -> None:
    members = [("0.png", png("red")), ("0.json", json.dumps({key: "a dog", "width": 8}).encode())]
    for _ in range(2):  # the second time from the cached index
        assert list(open_images(tar(tmp_path / "a.tar", members)).captions) == ["a dog"]
    assert list(open_images(tar(tmp_path / "b.tar", [*members, ("0.txt", b"a cat")])).captions) == ["a cat"]
    joined = ("1.json", json.dumps({key: "left out", "captions": ["a", "b"]}).encode())
    assert list(open_images(tar(tmp_path / "c.tar", [*members, ("1.png", png("red")), joined])).captions) == [
        "a dog",
        "a\x1eb",
    ]


@pytest.mark.parametrize(
    "member",
    [
        ("0.json", b'{"prompt": "x"}'),
        ("0.json", b'{"text": 3}'),
        ("0.json", b'{"caption": "x", "similarity": NaN}'),
        ("0.caption", b"x"),
    ],
)
def test_members_that_are_not_read_are_named_where_a_shard_has_images_alone(
    tmp_path: Path, member: tuple[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    members = [member, ("0.png", png("red"))]
    for _ in range(2):
        caplog.clear()
        assert open_images(tar(tmp_path / "a.tar", members)).captions is None
        (line,) = [record.message for record in caplog.records]
        assert f"a.tar/{member[0]} (labels are numbers in .cls members, captions" in line
    caplog.clear()
    assert open_images(tar(tmp_path / "b.tar", [*members, ("0.cls", b"1")])).labels == [1]
    assert not caplog.records


def test_folders_in_a_shard_are_said_to_be_no_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = [("./cat/0.png", png("red")), ("./dog/1.png", png("blue"))]
    assert open_images(tar(tmp_path / "a.tar", members)).labels is None
    assert "no labels, for there are no .cls members; the 2 folders in it, such as ./dog, are not" in caplog.text
    caplog.clear()
    labelled = [*members, ("./cat/0.cls", b"0"), ("./dog/1.cls", b"1")]
    assert open_images(tar(tmp_path / "b.tar", labelled)).labels == [0, 1] and not caplog.text


def test_names_in_any_encoding_are_read(tmp_path: Path) -> None:
    source = open_images(tar(tmp_path / "a.tar", [(b"caf\xe9.png", png("red")), (b"caf\xe8.png", png("blue"))]))
    assert (len(source), color(source, 1)) == (2, (0, 0, 255))
    source.name(0).encode()


def test_the_usual_name_settles_which_column_is_meant_and_the_rest_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = {"_type": "ClassLabel", "names": ["a", "b"]}
    path = parquet(
        tmp_path / "a.parquet",
        {"conditioning_image": [png("black")], "image": [png("red")], "coarse_label": [0], "fine_label": [1]},
        {"conditioning_image": IMAGE, "image": IMAGE, "coarse_label": names, "fine_label": names},
    )
    source = open_images(path)
    assert (color(source), source.labels) == ((255, 0, 0), [1])
    assert "conditioning_image is left out" in caplog.text and "coarse_label is left out" in caplog.text


def test_a_converted_webdataset_keeps_labels_and_captions(tmp_path: Path) -> None:
    cells = {"jpg": [png("red"), png("blue")], "cls": [1, 0], "txt": ["a", "b"], "__key__": ["0", "1"]}
    source = open_images(parquet(tmp_path / "a.parquet", cells, {"jpg": IMAGE}))
    assert (source.labels, list(source.captions)) == ([1, 0], ["a", "b"])


def test_columns_that_are_left_out_are_named_where_nothing_but_images_is_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cells = {"image": [png("red")], "class_index": [3], "prompt": ["a cat"]}
    source = open_images(parquet(tmp_path / "a.parquet", cells))
    assert (source.labels, source.captions) == (None, None)
    assert "class_index, prompt is left out" in caplog.text
    caplog.clear()
    open_images(parquet(tmp_path / "b.parquet", {"image": [png("red")], "label": [3], "width": [9]}))
    assert not caplog.text


@pytest.mark.parametrize(
    ("columns", "features", "words"),
    [
        ({"left": [png("red")], "right": [png("red")]}, {"left": IMAGE, "right": IMAGE}, "left, right"),
        ({"image": ["a.png"]}, None, "no column of encoded images"),
        ({"image": [3]}, {"image": IMAGE}, "no column of encoded images"),
        ({"image": [png("red")], "label": [True]}, None, "holds bool"),
        ({"image": [png("red")], "label": [1.0]}, None, "holds double"),
        ({"image": [png("red")], "label": ["cat"]}, None, "holds string"),
        ({"image": [png("red")], "label": pyarrow.array([2**63], pyarrow.uint64())}, None, "label 9223372036854775808"),
        ({"image": [png("red")], "label": [5]}, labelled(["a", "b"]), "outside the 2 classes"),
        ({"image": [png("red")] * 2, "label": [0, None]}, labelled(["a", "b"]), "label None"),
        ({"image": [png("red")] * 2, "label": [0, -1]}, labelled(["a", "b"]), "label -1"),
        ({"image": [png("red")], "label": [0]}, labelled([1, 2]), "no UTF-8 text"),
        ({"image": [png("red")], "label": [0]}, labelled(["\ud800"]), "no UTF-8 text"),
        ({"image": [png("red")], "label": [0]}, labelled("cat"), "no list"),
        ({"image": [png("red")], "label": [0]}, labelled(["a", "a"]), "twice"),
    ],
)
def test_columns_that_do_not_fit_are_refused_in_one_short_line(
    tmp_path: Path, columns: dict, features: dict | None, words: str
) -> None:
    with pytest.raises(DataError) as caught:
        open_images(parquet(tmp_path / "a.parquet", columns, features))
    message = str(caught.value).replace(str(tmp_path), "")
    assert words in message and "a.parquet" in message and "\n" not in message and len(message) < 300


def test_a_picture_called_label_is_no_label(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cells = {"image": [png("red")], "label": [np.random.default_rng(0).bytes(20_000)]}
    source = open_images(parquet(tmp_path / "a.parquet", cells, {"image": IMAGE, "label": IMAGE}))
    assert (source.labels, color(source)) == (None, (255, 0, 0))
    assert all(len(record.message) < 500 for record in caplog.records)


@pytest.mark.parametrize(
    ("second", "features", "words"),
    [
        ({"image": [png("red")], "label": [0]}, labelled(["dog", "cat"]), "calls class 0 'dog', .*'cat'"),
        ({"image": [png("red")], "label": [0]}, labelled(["cat"]), "calls class 1 no name, .*'dog'"),
        ({"image": [png("red")], "label": [0]}, None, "calls class 0 no name"),
        ({"image": [png("red")]}, {"image": IMAGE}, "labels in no column"),
        ({"image": [png("red")], "labels": [0]}, None, "labels in labels"),
        ({"img": [png("red")], "label": [0]}, labelled(["cat", "dog"]), "pictures in img"),
    ],
)
def test_files_of_one_set_agree_or_one_is_named(
    tmp_path: Path, second: dict, features: dict | None, words: str
) -> None:
    for first in ("0", "2"):  # whichever comes first
        folder = tmp_path / first
        parquet(folder / f"{first}.parquet", {"image": [png("red")], "label": [1]}, labelled(["cat", "dog"]))
        parquet(folder / "1.parquet", second, features)
        with pytest.raises(DataError, match=words if first == "0" else r"1\.parquet") as caught:
            open_images(folder)
        assert "1.parquet" in str(caught.value) and f"{first}.parquet" in str(caught.value)


@pytest.mark.parametrize("absent", [-1, None])
def test_labels_that_are_all_absent_are_none(tmp_path: Path, absent: int | None) -> None:
    cells = {"image": [png("red")] * 2, "label": pyarrow.array([absent] * 2, pyarrow.int64())}
    found = [open_images(parquet(tmp_path / "a.parquet", cells, labelled(["cat", "dog"])))]
    images = tmp_path / "folder"
    images.mkdir()
    for name in ("0.png", "1.png"):
        (images / name).write_bytes(png("red"))
    (images / "labels.json").write_text(json.dumps({"0.png": absent, "1.png": absent}))
    (images / "classes.json").write_text('["cat", "dog"]')
    found.append(open_images(images))
    if absent is not None:
        np.savez(tmp_path / "a.npz", np.zeros((2, 4, 4, 3), np.uint8), np.array([absent] * 2))
        found.append(open_images(tmp_path / "a.npz"))
        members = [("0.png", png("red")), ("0.cls", b"-1"), ("1.png", png("red")), ("1.cls", b"-1\n")]
        found.append(open_images(tar(tmp_path / "a.tar", members)))
    for source in found:
        assert (len(source), source.labels, source.classes) == (2, None, None)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([True, False]),
        np.array([0.0, 1.0]),
        np.array([2**63, 0], np.uint64),
        np.array([0, -1]),
        np.array(["a", "b"]),
    ],
)
def test_an_npz_with_labels_that_are_none_is_refused(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", np.zeros((2, 4, 4, 3), np.uint8), labels)
    with pytest.raises(DataError, match=r"of image [01] is") as caught:
        open_images(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


SHARDS = {
    "train-00000-of-00001": "test-00000-of-00001",
    "imagenet1k-train-0000": "imagenet1k-validation-00",
    "cc.train.0": "cc.val.0",
    "test_project_train0": "test_project_dev0",
}


@pytest.mark.parametrize("kind", ["tar", "parquet"])
@pytest.mark.parametrize(("train", "test"), SHARDS.items())
def test_splits_in_one_folder_are_not_read_together(tmp_path: Path, kind: str, train: str, test: str) -> None:
    for name, shade in ((train, "red"), (test, "blue")):
        file = tmp_path / f"{name}.{kind}"
        tar(file, [("0.png", png(shade))]) if kind == "tar" else parquet(file, {"image": [png(shade)]})
    with pytest.raises(DataError, match=r"several splits.*train"):
        open_images(tmp_path)
    source = open_images(tmp_path, split="train")
    assert (len(source), color(source)) == (1, (255, 0, 0))
    with pytest.raises(DataError, match="no split 'extra'"):
        open_images(tmp_path, split="extra")


def test_a_split_is_not_taken_for_another_that_begins_alike(tmp_path: Path) -> None:
    for name, shade in (("train", "red"), ("train_extra", "blue")):
        parquet(tmp_path / f"{name}-00000-of-00001.parquet", {"image": [png(shade)]})
    assert len(open_images(tmp_path, split="train")) == 1


def test_files_that_are_missing_of_a_numbered_set_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in (0, 1, 3):
        parquet(tmp_path / f"train-{number:05d}-of-00004.parquet", {"image": [png("red")], "label": [0]})
    parquet(tmp_path / "test-00000-of-00001.parquet", {"image": [png("red")], "label": [0]})
    assert len(open_images(tmp_path, split="train")) == 3
    assert "train has 3 of its 4 files; number 2 is the first that is missing" in caplog.text
    caplog.clear()
    assert len(open_images(tmp_path, split="test")) == 1
    parquet(tmp_path / "train-00002-of-00004.parquet", {"image": [png("red")], "label": [0]})
    assert len(open_images(tmp_path, split="train")) == 4
    assert not caplog.text


@pytest.mark.parametrize("names", [("test", "train"), ("train2017", "unlabeled2017", "val2017"), ("test_1", "train_1")])
def test_folders_that_are_splits_are_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(png("red"))
    with pytest.raises(DataError, match=f"splits {', '.join(names)}"):
        open_images(tmp_path)
    (tmp_path / "car").mkdir()
    (tmp_path / "car" / "0.png").write_bytes(png("red"))
    assert open_images(tmp_path).classes == ["car", *names], "a train may be a class among others"


def test_shards_in_the_folder_of_a_split_are_found(tmp_path: Path) -> None:
    tar(tmp_path / "train" / "0.tar", [("0.png", png("red"))])
    assert len(open_images(tmp_path, split="train")) == 1
    with pytest.raises(DataError, match=r"did you mean .*train"):
        open_images(tmp_path)


def test_shards_of_two_kinds_are_refused_and_images_beside_shards_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tar(tmp_path / "0.tar", [("0.png", png("red"))])
    (tmp_path / "loose.png").write_bytes(png("blue"))
    (tmp_path / "._0.tar").write_bytes(b"Mac")
    assert len(open_images(tmp_path)) == 1
    assert "1 other files of images, labels or captions are left out, such as loose.png" in caplog.text
    parquet(tmp_path / "0.parquet", {"url": ["http://x"]})
    with pytest.raises(DataError, match=r"1 \.parquet files \(0\.parquet\) and 1 \.tar files"):
        open_images(tmp_path)


def test_shards_labels_and_captions_that_are_not_read_with_shards_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("0.tar", "1.tar.gz", "2.TAR", "more/3.tar", ".hidden/4.tar"):
        tar(tmp_path / name, [("0.png", png("red"))])
    for name in ("labels.json", "metadata.jsonl", "0_stats.json", "README.txt"):
        (tmp_path / name).write_text("{}")
    assert len(open_images(tmp_path)) == 1
    assert "5 other files of images, labels or captions are left out, such as 1.tar.gz" in caplog.text


def test_an_array_of_labels_that_an_npz_calls_otherwise_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures, statistics = np.zeros((2, 4, 4, 3), np.uint8), {"mu": np.zeros(3), "sigma": np.eye(3)}
    np.savez(tmp_path / "a.npz", arr_0=pictures, **statistics)
    np.savez(tmp_path / "b.npz", arr_0=pictures, arr_1=np.arange(2), other=np.arange(2))
    assert (open_images(tmp_path / "a.npz").labels, open_images(tmp_path / "b.npz").labels) == (None, [0, 1])
    assert not caplog.records
    np.savez(tmp_path / "c.npz", arr_0=pictures, labels=np.arange(2), **statistics)
    assert open_images(tmp_path / "c.npz").labels is None
    assert "images without labels are read; labels is left out (labels are arr_1)" in caplog.text


def test_images_at_any_depth_below_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images(tmp_path, ["a/0.png", "a/b/c/1.png", "a/b/c/d/2.png", "a/b/.hidden/3.png"], {})
    (tmp_path / "a" / "b" / "c" / "back").symlink_to(tmp_path)
    assert len(open_images(tmp_path)) == 1
    (line,) = [record.message for record in caplog.records]
    assert "2 files are left out, such as a/b/c/1.png" in line


def test_images_that_a_folder_does_not_read_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a/0.png", "a/1.JPE", "b/0.jfif", "b/1.heic", "b/2.avif", "b/deep/3.png", "b/notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png("red"))
    assert open_images(tmp_path).labels == [0, 0, 1]
    (line,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "3 files are left out, such as b/1.heic" in line


def images(folder: Path, names: list[str], texts: dict[str, str]) -> Path:
    for name in [*names, *texts]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(texts[name].encode() if name in texts else png("red"))
    return folder


@pytest.mark.parametrize(
    ("names", "texts", "named"),
    [
        (["a.png", "b.png"], {"b.png.txt": "x", "a.png.txt": "x"}, "2 files are left out, such as a.png.txt"),
        (["a.png"], {"a.caption": "x"}, "1 files are left out, such as a.caption"),
        (["a.png"], {"a.JSON": '{"caption": "x"}', "other.json": "{}"}, "1 files are left out, such as a.JSON"),
        (["a.png"], {"metadata.csv": "file_name,text\na.png,x"}, "1 files are left out, such as metadata.csv"),
        (["a.png"], {"metadata.jsonl": '{"file_name": "a.png", "prompt": "x"}'}, "such as metadata.jsonl"),
        (["x/a.png"], {"x/metadata.jsonl": '{"file_name": "a.png", "text": "x"}'}, "such as x/metadata.jsonl"),
        (["x/a.png", "y/b.png"], {"a.txt": "x", "b.txt": "x"}, "2 files are left out, such as a.txt"),
        (["a.png"], {"captions/a.txt": "x"}, "such as captions/a.txt"),
    ],
)
def test_texts_that_are_no_captions_are_counted_where_there_are_none(
    tmp_path: Path, names: list[str], texts: dict[str, str], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert open_images(images(tmp_path, names, texts)).captions is None
    (line,) = [record.message for record in caplog.records]
    assert named in line and "no captions are read" in line and "\n" not in line


def test_documents_beside_images_and_texts_beside_captions_are_left_out_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    documents = {"README.txt": "x", "x/LICENSE.de.txt": "x", "labels.json": '{"x/a.png": 0}', "x/notes.json": "{}"}
    assert open_images(images(tmp_path / "a", ["x/a.png"], documents)).captions is None
    assert list(open_images(images(tmp_path / "b", ["a.png"], {"a.txt": "x", "notes.txt": "y"})).captions) == ["x"]
    assert not caplog.records


def test_captions_end_in_txt_in_upper_or_lower_case(tmp_path: Path) -> None:
    folder = images(tmp_path / "a", ["a.png", "b.png"], {"a.TXT": "one", "b.txt": "two"})
    assert list(open_images(folder).captions) == ["one", "two"]
    before = content_identity(open_images(folder))
    (folder / "a.TXT").write_text("other")
    assert content_identity(open_images(folder)) != before
    (folder / "a.txt").write_text("one")
    if len(list(folder.iterdir())) > 4:  # not where the disk takes both names for one
        with pytest.raises(DataError, match=r"a\.(txt|TXT) and a\.(txt|TXT) for one image; remove one"):
            open_images(folder)


def test_captions_with_a_byte_order_mark_are_without_it(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "0.png").write_bytes(png("red"))
    (folder / "0.txt").write_bytes(mark + b"a dog")
    assert list(open_images(folder).captions) == ["a dog"]
    (folder / "metadata.jsonl").write_bytes(mark + b'{"file_name": "0.png", "text": "a cat"}\r\n')
    (folder / "labels.json").write_bytes(mark + b'{"0.png": "x"}')
    (folder / "classes.json").write_bytes(mark + b'["x"]')
    source = open_images(folder)
    assert (list(source.captions), source.labels) == (["a cat"], [0])
    (tmp_path / "prompts.txt").write_bytes(mark + b"a dog\r\n\r\na\xe2\x80\xa8cat\r\n")
    assert read_prompts(tmp_path / "prompts.txt") == ("a dog", "a\u2028cat"), "only line feeds end a prompt"
    (tmp_path / "prompts.jsonl").write_bytes(mark + b'{"caption": "a  dog"}\n')
    assert read_prompts(tmp_path / "prompts.jsonl") == ("a dog",)
    assert read_lines(tmp_path / "prompts.jsonl")[0][0] == 1


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('{"file_name": "0.png", "text": "a"}\n{"file_name": "0.png", "text": "b"}', r"jsonl:2 has another caption"),
        ('{"file_name": "0.png", "text": "\\ud800"}', "whole characters"),
        ('{"file_name": "0.png", "text": ["a"]}', "not text"),
    ],
)
def test_captions_that_contradict_each_other_or_are_no_text_are_refused(tmp_path: Path, lines: str, words: str) -> None:
    (tmp_path / "0.png").write_bytes(png("red"))
    (tmp_path / "metadata.jsonl").write_text(lines)
    with pytest.raises(DataError, match=words):
        open_images(tmp_path)


def test_captions_of_absent_images_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "0.png").write_bytes(png("red"))
    rows = [{"file_name": name, "caption": name} for name in ("0.png", "1.png", "2.png")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert list(open_images(tmp_path).captions) == ["0.png"]
    assert "describes 2 files that are not among the images, such as 1.png" in caplog.text


def test_class_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png("red"))
    for content in ('[{"index": 0, "wnid": "a", "name": ["x"]}]', '[{"index": 0, "name": 3}]', '["\\ud800"]', '[""]'):
        (tmp_path / "classes.json").write_text(content)
        with pytest.raises(DataError, match=r"text|not valid JSON") as caught:
            open_images(tmp_path)
        assert "\n" not in str(caught.value)


def test_whatever_is_no_source_is_refused_in_one_line(tmp_path: Path) -> None:
    odd = (Image.new("RGB", (2, 2)), None, 3, np.zeros((2, 2)), "", b"x", "x" * 5000, "a\0b", "x[:" + "9" * 5000 + "]")
    for source in (*odd, "a{0.." + "9" * 5000 + "}.tar"):
        with pytest.raises(DataError) as caught:
            open_images(source)
        assert "\n" not in str(caught.value)


def test_what_unpacks_to_more_than_pictures_do_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fae_core.images.budget.UNPACKED_IN_MEMORY", 100_000)
    np.savez_compressed(tmp_path / "a.npz", np.zeros((100, 64, 64, 3), np.uint8))
    parquet(tmp_path / "a.parquet", {"image": [bytes(10**6)]})
    for name in ("a.npz", "a.parquet"):
        with pytest.raises(DataError, match="which no pictures do"):
            open_images(tmp_path / name)


def test_a_large_compressed_npz_is_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 7, 6, 3), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images)
    monkeypatch.setattr("fae_core.images.npz.UNPACKED_IN_MEMORY", 100)
    source = open_images(tmp_path / "a.npz")
    assert isinstance(source._images, np.memmap)
    np.testing.assert_array_equal(np.asarray(source.read(3)), images[3])
    assert list((tmp_path / "cache").iterdir()) == [], "the file has no name, and goes with the process"
