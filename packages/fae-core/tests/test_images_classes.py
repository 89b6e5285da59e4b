"""Classes are matched by name: of two sets of images, and of a user's list and a generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fae_core.errors import DataError, FAEError, UnknownName
from fae_core.images import draw_grid, open_images
from fae_core.images.classes import chosen_classes, match_classes

SIDES = {"where": "TEST", "known_where": "TRAIN"}
FRUIT = ["apple", "banana", "cherry", "date"]


def test_labels_follow_the_names() -> None:
    assert match_classes([0, 1, 2, 2], ["apple", "cherry", "date"], FRUIT, **SIDES) == [0, 2, 3, 3]
    assert match_classes([0, 3], list(reversed(FRUIT)), FRUIT, **SIDES) == [3, 0]
    # Names that no sample uses need no counterpart.
    assert match_classes([1], ["elderberry", "date"], FRUIT, **SIDES) == [3]
    assert match_classes([5, 0], None, None, **SIDES) == [5, 0]
    twins = ["crane", "crane", "maillot"]
    assert match_classes([1, 0, 2], twins, twins, **SIDES) == [1, 0, 2]


@pytest.mark.parametrize(
    ("names", "known", "says"),
    [
        (["apple", "Banana"], FRUIT, "TEST has classes that TRAIN has not: 'Banana'; there are 'apple', 'banana'"),
        (["x", "y"], FRUIT, "'x', 'y'"),
        (None, FRUIT, "TRAIN has class names and TEST has none"),
        (FRUIT, None, "TEST has class names and TRAIN has none"),
        (["apple", "crane"], ["crane", "crane", "apple"], "TRAIN calls several classes 'crane'"),
        (["crane", "crane"], ["crane", "apple"], "TEST calls several classes 'crane'"),
    ],
)
def test_what_names_cannot_tell_is_refused_with_the_difference(names, known, says) -> None:
    with pytest.raises(DataError, match=says):
        match_classes([0, 1], names, known, **SIDES)


def test_a_person_chooses_classes_by_name_or_index() -> None:
    names = ["tench, Tinca tinca", "goldfish", "7", "index", "name:x"]
    assert chosen_classes("tench, Tinca tinca,goldfish", names, 5) == [0, 1]
    assert chosen_classes("goldfish,tench,Tinca tinca", names, 5) == [1, 0]
    assert chosen_classes(" 1 , 0,4", names, 5) == [1, 0, 4]
    assert chosen_classes("name:7,index:2,index,name:name:x", names, 5) == [2, 2, 3, 4]
    assert chosen_classes("0,1", None, 2) == [0, 1]


@pytest.mark.parametrize(
    ("text", "names", "error", "says"),
    [
        ("godlfish", ["goldfish", "tench"], UnknownName, "did you mean goldfish"),
        ("goldfish", None, FAEError, "class indices such as"),
        ("", ["a"], UnknownName, "unknown class ''"),
        ("2", ["a", "b"], FAEError, "between 0 and 1"),
        ("-1", ["a", "b"], FAEError, "between 0 and 1"),
        ("index:a", ["a", "b"], UnknownName, "unknown class"),
        ("name:0", ["a", "b"], UnknownName, "unknown class '0'"),
        ("crane", ["crane", "fish", "crane"], FAEError, "index:0 or index:2"),
        ("1", ["1", "0"], FAEError, "index:1 or name:1"),
        ("9" * 5000, None, FAEError, "class indices"),
    ],
)
def test_a_class_that_is_not_clear_is_refused(text, names, error, says) -> None:
    with pytest.raises(error, match=says):
        chosen_classes(text, names, len(names or ["x"]))


def test_an_index_that_is_also_its_own_name_is_clear() -> None:
    digits = [str(digit) for digit in range(10)]
    assert chosen_classes("7,0", digits, 10) == [7, 0]
    # Folders sort 10 before 2: class 2 is called "10".
    folders = sorted(map(str, range(12)))
    with pytest.raises(FAEError, match="name of class 2"):
        chosen_classes("10", folders, 12)
    assert chosen_classes("index:10,name:10", folders, 12) == [10, 2]


def test_an_npz_keeps_its_class_names(tmp_path: Path) -> None:
    images, labels = np.zeros((3, 4, 4, 3), np.uint8), np.array([2, 0, 1])
    np.savez(tmp_path / "a.npz", arr_0=images, arr_1=labels, classes=np.asarray(FRUIT))
    opened = open_images(tmp_path / "a.npz")
    assert opened.classes == FRUIT and opened.labels == [2, 0, 1]
    for classes, says in ((np.arange(4), "list of class names"), (np.asarray(FRUIT[:2]), "outside the 2 classes")):
        np.savez(tmp_path / "b.npz", arr_0=images, arr_1=labels, classes=classes)
        with pytest.raises(DataError, match=says):
            open_images(tmp_path / "b.npz")
    (tmp_path / "classes.json").write_text('["a", "b", "c"]')
    with pytest.raises(DataError, match="name different classes"):
        open_images(tmp_path / "a.npz")


@pytest.mark.parametrize("text", ["katze", "猫", "\ud800", "two\nlines\x00", "x" * 10**6, "", "é" * 500])
def test_any_name_can_stand_below_a_picture(text: str) -> None:
    grid = draw_grid(torch.zeros(2, 3, 16, 16), 2, [text, "a"])
    assert grid.width == 34 and 16 < grid.height < 64


def test_a_name_is_drawn_below_its_picture() -> None:
    plain, named = (draw_grid(torch.zeros(1, 3, 32, 32), 1, labels) for labels in (None, ["cat"]))
    assert np.asarray(plain).max() == 0
    below = np.asarray(named)[32:]
    assert below.min() < 128 and below.max() == 255
    assert isinstance(named, Image.Image)
