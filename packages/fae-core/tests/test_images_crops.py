"""`fae crops` is deterministic, gives classes equal shares, and keeps held-out crops out of the training set."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from fae_core.cli.crops import crops
from fae_core.errors import DataError, OutputExists
from fae_core.images import open_images
from fae_core.images.crops import CropSettings, write_crops


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class a has one image, class b two, all with distinct pixels everywhere."""
    x, y = np.meshgrid(np.arange(60), np.arange(50))
    for number, name in enumerate(("a/one.png", "b/two.png", "b/three.png")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack([4 * x, 5 * y, 0 * x + 80 * number], -1).astype(np.uint8)).save(tmp_path / "in" / name)
    return tmp_path / "in"


def digest(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_the_same_seed_writes_the_same_files(folder: Path, tmp_path: Path) -> None:
    settings = CropSettings(size=16, jitter=0.05, seed=4)
    for name in ("one", "two"):
        write_crops(open_images(folder), tmp_path / name, settings, count=8, held_out=4)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    write_crops(open_images(folder), tmp_path / "other", CropSettings(size=16, jitter=0.05, seed=5), count=8)
    first, other = digest(tmp_path / "one"), digest(tmp_path / "other")
    assert all(first[name] != other[name] for name in other if name.endswith(".png"))


def test_a_crop_does_not_depend_on_how_many_there_are(folder: Path, tmp_path: Path) -> None:
    settings = CropSettings(size=16)
    write_crops(open_images(folder), tmp_path / "few", settings, count=4)
    write_crops(open_images(folder), tmp_path / "many", settings, count=9, held_out=3)
    many = digest(tmp_path / "many")
    assert all(many[name] == value for name, value in digest(tmp_path / "few").items())


def test_classes_get_equal_shares_and_keep_their_numbers(folder: Path, tmp_path: Path) -> None:
    write_crops(open_images(folder), tmp_path / "out", CropSettings(size=16), count=12, held_out=4)
    for split, share in (("train", 6), ("held-out", 2)):
        source = open_images(tmp_path / "out", split=split)
        assert source.classes == ["a", "b"]
        assert np.bincount(source.labels).tolist() == [share, share]
        assert {source.read(i).size for i in range(len(source))} == {(16, 16)}
    blues = {np.asarray(source.read(i))[0, 0, 2] for i in range(len(source)) if source.labels[i] == 1}
    assert blues == {80, 160}, "both images of class b are used"


def test_no_held_out_crop_is_a_training_crop(folder: Path, tmp_path: Path) -> None:
    """Few different boxes exist here, so independent draws would collide: 3 x 3 offsets for one side."""
    settings = CropSettings(size=16, scale=(0.96, 0.96), center=0.6)
    small = open_images(folder).select([0])
    write_crops(small, tmp_path / "out", settings, count=4, held_out=3)
    files = digest(tmp_path / "out")
    train = {value for name, value in files.items() if name.startswith("train/a")}
    held = {value for name, value in files.items() if name.startswith("held-out/a")}
    assert len(held) >= 1
    assert not train & held


def test_an_image_without_room_for_held_out_crops_is_an_error(folder: Path, tmp_path: Path) -> None:
    # `fae demo` calls this, too, and has no --scale.
    with pytest.raises(DataError, match=r"\d+x\d+, has too few different crops .*; give larger images") as refused:
        write_crops(
            open_images(folder), tmp_path / "out", CropSettings(size=16, scale=(1, 1), center=0), count=3, held_out=3
        )
    assert "`fae crops` also takes a wider --scale" in str(refused.value)
    assert [p.name for p in tmp_path.iterdir()] == ["in"], "nothing half-written"


def test_unreadable_images_are_skipped_and_named(folder: Path, tmp_path: Path) -> None:
    (folder / "b" / "bad.png").write_bytes(b"no image")
    lines: list[str] = []
    write_crops(open_images(folder), tmp_path / "out", CropSettings(size=8), count=6, log=lines.append)
    assert len(lines) == 1
    assert "bad.png" in lines[0]
    assert len(open_images(tmp_path / "out", split="train")) == 6


def test_images_without_labels_stay_flat_or_become_classes(folder: Path, tmp_path: Path) -> None:
    flat = open_images(folder / "b")
    write_crops(flat, tmp_path / "flat", CropSettings(size=8), count=4)
    assert open_images(tmp_path / "flat" / "train").labels is None
    write_crops(flat, tmp_path / "each", CropSettings(size=8), count=4, class_per_image=True)
    source = open_images(tmp_path / "each" / "train")
    assert (source.classes, sorted(source.labels)) == (["three", "two"], [0, 0, 1, 1])


def test_class_names_that_make_no_folder_are_numbered(tmp_path: Path, folder: Path) -> None:
    (folder / "classes.json").write_text(
        '[{"index": 0, "wnid": "a", "name": "crane/bird"}, {"index": 1, "wnid": "b", "name": "crane bird"}]'
    )
    write_crops(open_images(folder), tmp_path / "out", CropSettings(size=8), count=4)
    assert open_images(tmp_path / "out" / "train").classes == ["crane/bird", "crane bird"]
    assert sorted(p.name for p in (tmp_path / "out" / "train").iterdir() if p.is_dir()) == [
        "0-crane_bird",
        "1-crane_bird",
    ]


@pytest.fixture
def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(crops)
    return app


def test_the_command_writes_and_says_what_to_do_next(folder: Path, tmp_path: Path, command: typer.Typer) -> None:
    out = tmp_path / "out"
    arguments = [str(folder), "--out", str(out), "--count", "4", "--held-out", "2", "--size", "8", "--scale", "0.5,0.9"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert f"wrote 4 crops of 8x8 to {out}/train and 2 to {out}/held-out" in result.stdout
    assert "next: fae train" in result.stdout
    assert len(open_images(out, split="held-out")) == 2
    with pytest.raises(OutputExists, match="--overwrite"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert CliRunner().invoke(command, [*arguments, "--overwrite"]).exit_code == 0


@pytest.mark.parametrize("scale", ["big", "0.8", "0.9,0.8", "0,1", "nan,1"])
def test_a_scale_that_makes_no_sense_is_an_error(
    folder: Path, tmp_path: Path, command: typer.Typer, scale: str
) -> None:
    with pytest.raises(DataError, match="scale"):
        CliRunner().invoke(
            command, [str(folder), "--out", str(tmp_path / "out"), "--scale", scale], catch_exceptions=False
        )
    assert not (tmp_path / "out").exists()
