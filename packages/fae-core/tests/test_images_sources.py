"""Every kind of source gives the same images and labels, and labels that do not match are errors."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import tarfile
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fae_core.errors import DataError
from fae_core.images import open_images
from fae_core.images.captions import split_captions
from fae_core.images.open import require_source
from fae_core.images.spread import evenly_spread, spread_indices
from fae_core.images.tolerant import TolerantImages
from fae_core.testing import shared_folder


def picture(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


@pytest.fixture
def classed(tmp_path: Path) -> Path:
    """Two classes, three images, and things that are not images."""
    picture(tmp_path / "zebra" / "b.png", (1, 0, 0))
    picture(tmp_path / "zebra" / "a.PNG", (2, 0, 0))
    picture(tmp_path / "ant" / "c.bmp", (3, 0, 0))
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    picture(tmp_path / ".cache" / "hidden.png", (9, 9, 9))
    return tmp_path


def reds(source) -> list[int]:
    return [source.read(i).getpixel((0, 0))[0] for i in range(len(source))]


def test_a_flat_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for red, name in ((5, "b.png"), (4, "a.png"), (6, "c.png")):
        picture(tmp_path / name, (red, 0, 0))
    source = open_images(tmp_path)
    assert reds(source) == [4, 5, 6]
    assert (source.labels, source.classes) == (None, None)
    assert source.name(0) == str(tmp_path / "a.png")


def test_subfolders_are_classes_sorted_by_name(classed: Path) -> None:
    source = open_images(classed)
    assert source.classes == ["ant", "zebra"]
    assert list(zip(source.labels, reds(source), strict=True)) == [(0, 3), (1, 2), (1, 1)]


def test_classes_json_gives_order_and_names(classed: Path) -> None:
    (classed / "classes.json").write_text('["zebra", "bee", "ant"]')
    source = open_images(classed)
    assert source.classes == ["zebra", "bee", "ant"]
    assert sorted(zip(reds(source), source.labels, strict=True)) == [(1, 0), (2, 0), (3, 2)]


def test_classes_json_with_ids_matches_folders_by_id(classed: Path) -> None:
    entries = [{"index": 1, "wnid": "ant", "name": "Formica"}, {"index": 0, "wnid": "zebra", "name": "Equus"}]
    (classed / "classes.json").write_text(json.dumps(entries))
    source = open_images(classed)
    assert source.classes == ["Equus", "Formica"]
    assert sorted(zip(reds(source), source.labels, strict=True)) == [(1, 0), (2, 0), (3, 1)]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('["ant", "bee"]', "'zebra'"),
        ('["ant", "ant", "zebra"]', "twice"),
        ("[]", "must hold a list"),
        ('{"ant": 0}', "must hold a list"),
        ("[1, 2]", "integer index"),
        ('[{"index": 0, "wnid": "ant"}, {"index": 2, "wnid": "zebra"}]', r"0\.\.1"),
        ('["ant", "zebra"', "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_class_file_that_does_not_match_is_an_error(classed: Path, content: str, complaint: str) -> None:
    (classed / "classes.json").write_text(content)
    with pytest.raises(DataError, match=complaint):
        open_images(classed)


def test_labels_json_labels_a_flat_folder(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name, (0, 0, 0))
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    (tmp_path / "labels.json").write_text('{"b.png": 0, "a.png": "dog"}')
    source = open_images(tmp_path)
    assert (source.labels, source.classes) == ([1, 0], ["cat", "dog"])


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ({"a.png": 0}, r"no label for b\.png"),
        ({"a.png": 0, "b.png": 1, "c.png": 1}, r"do not exist: c\.png"),
        ({"a.png": 0, "b.png": 2}, "outside the 2 classes"),
        ({"a.png": 0, "b.png": "horse"}, "'horse'"),
        ({"a.png": 0, "b.png": -1}, "not an integer"),
        ({"a.png": 0, "b.png": True}, "not an integer"),
        ({"a.png": 0, "b.png": 1.0}, "not an integer"),
    ],
)
def test_a_label_file_that_does_not_match_is_an_error(tmp_path: Path, labels: dict, complaint: str) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name, (0, 0, 0))
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    with pytest.raises(DataError, match=complaint):
        open_images(tmp_path)


@pytest.mark.parametrize("file", ["labels.json", "dataset.json"])
def test_a_file_of_labels_is_followed_where_folders_are_no_classes(tmp_path: Path, file: str) -> None:
    """StyleGAN's and EDM's data sets have a thousand images in each of 00000/, 00001/, ..., whatever their class."""
    labels = {"00000/img0.png": 2, "00000/img1.png": 0, "00001/img2.png": 2}
    for red, name in enumerate(labels):
        picture(tmp_path / name, (red, 0, 0))
    stored = labels if file == "labels.json" else {"labels": list(labels.items())}
    (tmp_path / file).write_text(json.dumps(stored))
    source = open_images(tmp_path)
    assert (reds(source), source.labels, source.classes) == ([0, 1, 2], [2, 0, 2], None)
    (tmp_path / "classes.json").write_text('["cat", "dog", "emu"]')
    assert open_images(tmp_path).classes == ["cat", "dog", "emu"]


@pytest.mark.parametrize(
    ("stored", "labels"),
    [
        ({"labels": None}, None),  # EDM's, of images without classes
        ({"labels": ["ant", "zebra"]}, [0, 1, 1]),  # anything else is not about labels: folders are classes
        ({"name": "insects"}, [0, 1, 1]),
    ],
)
def test_what_a_dataset_json_says_of_classes(classed: Path, stored: dict, labels: list[int] | None) -> None:
    (classed / "dataset.json").write_text(json.dumps(stored))
    assert open_images(classed).labels == labels


def test_a_dataset_json_that_does_not_match_is_an_error(classed: Path) -> None:
    for pairs, complaint in (([["ant/x.png", 0]], "no label for"), ([["a", 0], ["a", 1]], "several labels for a")):
        (classed / "dataset.json").write_text(json.dumps({"labels": pairs}))
        with pytest.raises(DataError, match=complaint):
            open_images(classed)


def test_empty_missing_and_mixed_folders_are_errors(classed: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        open_images(tmp_path / "empty")
    with pytest.raises(DataError, match="does not exist"):
        open_images(tmp_path / "nowhere")
    picture(classed / "stray.png", (0, 0, 0))
    with pytest.raises(DataError, match="both beside and inside"):
        open_images(classed)


def test_a_folder_of_splits_says_which_to_take(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "cat" / "a.png", (7, 0, 0))
    with pytest.raises(DataError, match=r"did you mean .*train"):
        open_images(tmp_path)
    assert reds(open_images(tmp_path, split="train")) == [7]
    with pytest.raises(DataError, match="no split 'val'"):
        open_images(tmp_path, split="val")


def test_a_file_of_no_known_kind_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"")
    with pytest.raises(DataError, match="neither a folder"):
        open_images(tmp_path / "images.zip")


def test_select_keeps_images_and_labels_together(classed: Path) -> None:
    part = open_images(classed).select([2, 0])
    assert list(zip(part.labels, reds(part), strict=True)) == [(1, 1), (0, 3)]
    for wrong in ([3], [label == 0 for label in open_images(classed).labels]):  # the latter as integers: 1, 0, 0
        with pytest.raises(DataError, match=r"does not exist|integers, not bool"):
            open_images(classed).select(wrong)


def test_a_spread_part_has_each_image_once_from_the_first_on(classed: Path) -> None:
    for count in range(12):
        assert spread_indices(count, None) == list(range(count))
        for most in range(1, 14):
            found = spread_indices(count, most)
            assert len(found) == min(count, most)
            assert found[:1] == [0][:count]
            gaps = [after - before for before, after in pairwise([*found, count])]
            assert not gaps or 1 <= min(gaps) <= max(gaps) <= min(gaps) + 1
    source = open_images(classed)
    assert evenly_spread(source, 3) is evenly_spread(source, None) is source
    assert reds(evenly_spread(source, 2)) == reds(source)[:2]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_images_are_exact_whether_mapped_or_unpacked(tmp_path: Path, save) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 7, 6, 3), np.uint8)
    save(tmp_path / "samples.npz", images, np.array([0, 4, 1, 1, 2]))
    source = open_images(tmp_path / "samples.npz")
    assert len(source) == 5
    assert source.labels == [0, 4, 1, 1, 2]
    for i in range(5):
        np.testing.assert_array_equal(np.asarray(source.read(i)), images[i])


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"arr_0": np.zeros((2, 4, 4, 3), np.float32)}, "must be uint8"),
        ({"arr_0": np.zeros((2, 3, 4, 4), np.uint8)}, "must be uint8"),
        ({"arr_0": np.zeros((0, 4, 4, 3), np.uint8)}, "no images"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8)}, "no array arr_0"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "arr_1": np.zeros(3, np.int64)}, "for 2 images"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "arr_1": np.zeros(2)}, "not an integer"),
        ({"arr_0": np.array([{"a": 1}], dtype=object)}, "never unpickled"),
    ],
)
def test_an_npz_that_is_not_adms_is_an_error(tmp_path: Path, arrays: dict, complaint: str) -> None:
    np.savez(tmp_path / "samples.npz", **arrays)
    with pytest.raises(DataError, match=complaint):
        open_images(tmp_path / "samples.npz")


def test_a_damaged_npz_is_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", np.zeros((2, 4, 4, 3), np.uint8))
    data = (tmp_path / "samples.npz").read_bytes()
    (tmp_path / "samples.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"samples\.npz"):
        open_images(tmp_path / "samples.npz")


def write_parquet(path: Path, images: list[bytes | None], labels: list[int], names: list[str] | None = None) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs fae-core[data]")
    import pyarrow.parquet as pq

    table = pa.table({"img": [{"bytes": data, "path": None} for data in images], "label": labels})
    if names:
        features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=2)


def png(red: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def test_parquet_rows_are_found_across_row_groups_and_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [png(r) for r in range(5)], [0, 1, 0, 1, 0], ["a", "b"])
    write_parquet(tmp_path / "train-1.parquet", [png(r) for r in range(5, 8)], [1, 0, 1], ["a", "b"])
    write_parquet(tmp_path / "test-0.parquet", [png(99)], [0], ["a", "b"])
    source = open_images(tmp_path, split="train")
    assert reds(source) == list(range(8))
    assert [source.read(i).getpixel((0, 0))[0] for i in (7, 0, 4, 5)] == [7, 0, 4, 5]
    assert (source.labels, source.classes) == ([0, 1, 0, 1, 0, 1, 0, 1], ["a", "b"])
    assert source.name(6).endswith("train-1.parquet[1]")
    assert reds(open_images(tmp_path / "test-0.parquet")) == [99]


def test_parquet_errors_name_the_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", [png(1), None, b"rubbish"], [0, 1, 1])
    source = open_images(tmp_path / "x.parquet")
    for row in (1, 2):
        with pytest.raises(DataError, match=rf"x\.parquet\[{row}\]"):
            source.read(row)
    (tmp_path / "classes.json").write_text('["only"]')
    with pytest.raises(DataError, match="outside the 1 classes"):
        open_images(tmp_path / "x.parquet")
    (tmp_path / "y.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="not a readable parquet"):
        open_images(tmp_path / "y.parquet")


def test_parquet_metadata_and_class_file_must_agree(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", [png(1)], [0], ["a", "b"])
    (tmp_path / "classes.json").write_text('["b", "a"]')
    with pytest.raises(DataError, match="name different classes"):
        open_images(tmp_path / "x.parquet")


def test_the_photographs_are_eight_colour_images() -> None:
    pytest.importorskip("skimage", reason="needs fae-core[demo]")
    source = open_images("photographs")
    assert source.classes == [
        "astronaut",
        "chelsea",
        "coffee",
        "hubble_deep_field",
        "ihc",
        "motorcycle_left",
        "retina",
        "rocket",
    ]
    assert source.labels == list(range(8))
    for i in range(8):
        pixels = np.asarray(source.read(i)).astype(int)
        assert min(pixels.shape[:2]) >= 300, source.name(i)
        assert np.abs(pixels[..., 0] - pixels[..., 2]).mean() > 1, f"{source.name(i)} is grey"


def test_real_imagenet_folder_and_class_file() -> None:
    source = open_images(shared_folder("data", "imagenet-samples"))
    assert len(source) == 796
    assert len(source.classes) == 1000
    place = next(i for i in range(len(source)) if "n01440764" in source.name(i))
    assert source.classes[source.labels[place]] == "tench"
    assert min(source.read(place).size) == 256


def test_real_cifar_parquet() -> None:
    pytest.importorskip("pyarrow", reason="needs fae-core[data]")
    source = open_images(shared_folder("data", "cifar10", "train.parquet"))
    assert len(source) == 50_000
    assert np.bincount(source.labels).tolist() == [5000] * 10
    assert source.classes[0] == "airplane"
    assert {source.read(i).size for i in (0, 9_999, 10_000, 49_999)} == {(32, 32)}


def test_a_slice_behind_a_source_takes_part_of_it(classed: Path) -> None:
    everything = reds(open_images(classed))
    part = open_images(f"{classed}[1:]")
    assert reds(part) == everything[1:] and part.labels == open_images(classed).labels[1:]
    assert reds(open_images(f"{classed}[:-1]")) == everything[:-1]
    assert reds(open_images(f"{classed}[::2]")) == everything[::2]
    with pytest.raises(DataError, match="selects none of 3"):
        open_images(f"{classed}[5:]")
    for odd in ("[-:]", "[::0]", "[a:]", "[1]"):
        with pytest.raises(DataError, match="does not exist"):
            open_images(f"{classed}{odd}")


def test_captions_stand_in_metadata_or_beside_the_images(classed: Path) -> None:
    assert open_images(classed).captions is None
    texts = {"ant/c": "an ant", "zebra/a": "a  zebra,\nstanding\n", "zebra/b": ""}
    for name, text in texts.items():
        (classed / f"{name}.txt").write_text(text)
    source = open_images(classed)
    assert list(source.captions) == ["an ant", "a zebra, standing", ""]
    assert list(source.select([2, 0]).captions) == ["", "an ant"]
    lines = [{"file_name": "zebra/a.PNG", "text": "é"}, {"file_name": "zebra/b.png", "text": "b"}]
    lines.append({"file_name": "ant/c.bmp", "text": "x", "caption": "from metadata", "width": 6})
    (classed / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert list(open_images(f"{classed}[::-1]").captions) == ["b", "é", "from metadata"]


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ('{"file_name": "ant/c.bmp", "text": "x"}', r"metadata.jsonl has no caption for zebra/a.PNG and 1 more"),
        ('{"text": "x"}', r"metadata.jsonl:1 has no file_name"),
        ('{"file_name": "ant/c.bmp", "text": ["x"]}', "is not text"),
        ("[", r"metadata.jsonl:1 is not a JSON object"),
        (None, r"has no caption for zebra/b.png"),
        ('{"file_name": "ant/c.bmp", "captions": []}', r"jsonl:1: the captions of ant/c.bmp are no list of texts"),
        ('{"file_name": "ant/c.bmp", "captions": ["a", 2]}', "are no list of texts"),
        (r'{"file_name": "ant/c.bmp", "captions": ["a", "b\u001ec"]}', r"U\+001E, which separates captions; remove it"),
    ],
)
def test_captions_for_a_part_of_the_images_are_refused(classed: Path, metadata: str | None, complaint: str) -> None:
    if metadata is None:
        for name in ("ant/c", "zebra/a"):
            (classed / f"{name}.txt").write_text("x")
    else:
        (classed / "metadata.jsonl").write_text(metadata)
    with pytest.raises(DataError, match=complaint):
        open_images(classed)


@pytest.mark.parametrize("column", ["caption", "text"])
def test_a_parquet_column_of_strings_gives_captions(tmp_path: Path, column: str) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs fae-core[data]")
    import pyarrow.parquet as parquet

    picture(tmp_path / "a.png", (7, 0, 0))
    cell = {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}
    table = pyarrow.table({"image": [cell, cell, cell], column: ["one", None, "three"]})
    parquet.write_table(table, tmp_path / "0.parquet", row_group_size=2)
    assert list(open_images(tmp_path / "0.parquet").captions) == ["one", "", "three"]
    parquet.write_table(pyarrow.table({"image": [cell], column: [3]}), tmp_path / "1.parquet")
    assert open_images(tmp_path / "1.parquet").captions is None
    with pytest.raises(DataError, match="do not all have a column of captions"):
        open_images(tmp_path, "")


def test_an_image_may_have_several_captions(classed: Path, tmp_path: Path) -> None:
    lines = [{"file_name": "zebra/a.PNG", "captions": ["a", "", "c"]}, {"file_name": "zebra/b.png", "caption": "b"}]
    lines.append({"file_name": "ant/c.bmp", "text": "x", "captions": ["left out"]})
    (classed / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [split_captions(text) for text in open_images(classed).captions] == [["x"], ["a", "", "c"], ["b"]]
    pyarrow = pytest.importorskip("pyarrow", reason="needs fae-core[data]")
    import pyarrow.parquet as parquet

    cell = {"bytes": (classed / "zebra" / "a.PNG").read_bytes(), "path": None}
    table = pyarrow.table({"image": [cell] * 4, "captions": [["one", "two"], [None, "2"], [], None]})
    parquet.write_table(table, tmp_path / "0.parquet")
    found = [split_captions(text) for text in open_images(tmp_path / "0.parquet").captions]
    assert found == [["one", "two"], ["", "2"], [""], [""]]


def test_one_image_file_is_a_source(classed: Path) -> None:
    source = open_images(classed / "zebra" / "a.PNG")
    assert (reds(source), source.name(0)) == ([2], str(classed / "zebra" / "a.PNG"))


def test_remote_parquet_is_read_in_place(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec comes with torch or fae-core[data]")
    for part, values in enumerate(([1, 2, 3], [4, 5])):
        write_parquet(tmp_path / "x.parquet", [png(v) for v in values], [0] * len(values))
        fsspec.filesystem("memory").pipe(f"/images/x-{part}.parquet", (tmp_path / "x.parquet").read_bytes())
    assert reds(open_images("memory://images/x-{0..1}.parquet")) == [1, 2, 3, 4, 5]
    with pytest.raises(DataError, match=r"cannot read memory://images/y\.parquet"):
        open_images("memory://images/y.parquet")


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_a_pattern_or_address_has_the_splits_of_a_folder_of_its_files(tmp_path: Path, kind: str) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec comes with torch or fae-core[data]")
    for value in range(2):
        file = tmp_path / f"train-{value}.{kind}"
        if kind == "parquet":
            write_parquet(file, [png(value)], [0])
        else:
            with tarfile.open(file, "w") as archive:
                info = tarfile.TarInfo("0.png")
                info.size = len(png(value))
                archive.addfile(info, io.BytesIO(png(value)))
        fsspec.filesystem("memory").pipe(f"/splits/{file.name}", file.read_bytes())
    pattern = f"train-{{0..1}}.{kind}"
    for place in (tmp_path, f"{tmp_path}/{pattern}", f"memory://splits/{pattern}", f"{tmp_path}/{pattern}[:2]"):
        assert reds(open_images(place, "train")) == [0, 1]
        assert reds(open_images(place, "train-1")) == [1]
        with pytest.raises(DataError, match=rf"has no split 'validation'; it has train-0.{kind} and 1 more"):
            open_images(place, "validation")


def test_what_has_no_splits_refuses_one(classed: Path) -> None:
    np.savez(classed / "x.npz", np.zeros((1, 4, 4, 3), np.uint8))
    for place in ("photographs", f"file://{classed}/x.tar", *(classed / name for name in ("x.npz", "ant/c.bmp"))):
        with pytest.raises(DataError, match=r"has no split 'train'; folders and patterns"):
            open_images(place, "train")
    with pytest.raises(DataError, match="ImageSource has no split 'train'"):
        open_images(open_images(classed / "ant"), "train")


@pytest.mark.parametrize("name", ["x{0..1}", "x[1:]", "x[1:]{0..1}[2:]"])
def test_what_exists_under_its_whole_name_is_no_pattern_and_no_slice(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    for red in range(3):
        picture(folder / f"{red}.png", (red, 0, 0))
    np.savez(tmp_path / f"{name}.npz", np.full((2, 4, 4, 3), 7, np.uint8))
    for place in (f"{folder}", f"{folder}.npz", f"{folder}[:2]"):
        require_source(place)
    assert reds(open_images(folder)) == [0, 1, 2]
    assert reds(open_images(f"{folder}[:2]")) == [0, 1]
    assert reds(open_images(f"{folder}.npz")) == [7, 7]
    assert reds(open_images(f"{folder}/2.png")) == [2]
    (tmp_path / "y{0..1}").mkdir()
    with pytest.raises(DataError, match="it is empty"):
        require_source(f"{tmp_path}/y{{0..1}}")


def test_the_folder_of_a_user_stands_for_a_tilde_in_patterns_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    picture(tmp_path / "x{0..1}" / "a.png", (5, 0, 0))
    write_parquet(tmp_path / "0.parquet", [png(6)], [0])
    assert reds(open_images("~/x{0..1}")) == [5] and reds(open_images("~/{0..0}.parquet")) == [6]
    with pytest.raises(DataError, match=r"~nobody-is-called-so/x does not exist"):
        open_images("~nobody-is-called-so/x")


def test_workers_that_are_spawned_get_every_kind_of_source_as_it_was_opened(classed: Path) -> None:
    data = [png(red) for red in range(40)]
    np.savez(classed / "x.npz", np.full((400, 16, 16, 3), 9, np.uint8), np.arange(400) % 3)
    write_parquet(classed / "x.parquet", data, [0] * 40, ["a"])
    with tarfile.open(classed / "x.tar", "w") as archive:
        for number, image in enumerate(data):
            for name, content in ((f"{number:02d}.png", image), (f"{number:02d}.txt", f"text {number}".encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    (classed / "texts").mkdir()
    for red in range(3):
        picture(classed / "texts" / f"{red}.png", (red, 0, 0))
        (classed / "texts" / f"{red}.txt").write_text(f"red {red}")
    for name in ("x.npz", "x.parquet", "x.tar[3:30]", "x.tar", "texts", "texts[::-1]", "ant/c.bmp"):
        opened = open_images(classed / name)
        opened.labels, opened.classes = [5] * len(opened), ["other"]  # as `fae eval` gives pictures of `fae sample`
        for source in (opened, TolerantImages(opened, print)):
            sent = pickle.dumps(source)
            found = pickle.loads(sent)  # noqa: S301 - as a spawned process gets it
            assert len(sent) < 100_000 and type(found) is type(source)
            assert reds(found) == reds(source)
            for fact in ("labels", "classes", "blocks", "origin"):
                assert getattr(found, fact) == getattr(source, fact), (name, fact)
            texts = [None if one.captions is None else list(one.captions) for one in (found, source)]
            assert texts[0] == texts[1] and found.name(0) == source.name(0)
    source = open_images(classed / "x.parquet")
    source.read(0)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(source.read, 7).result().getpixel((0, 0)) == (7, 0, 0)


def test_a_pattern_of_other_files_is_refused() -> None:
    with pytest.raises(DataError, match=r"name \.tar or \.parquet files"):
        open_images("photos-{0..3}.jpg")
