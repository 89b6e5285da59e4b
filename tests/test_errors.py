"""Errors of every package reach another process as they were raised."""

from __future__ import annotations

import copy
import importlib
import pickle
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from fae_core import errors
from fae_core.errors import FAEError

PACKAGES = Path(__file__).parents[1] / "packages"

# What the classes are made of that take something other than a message.
MADE_OF: dict[str, tuple] = {
    "LatentSpecMismatch": ({"channels": (4, 8)}, "a decoder"),
    "FeatureSpaceMismatch": ({"backbone weights": ("a", "b")}, "a decoder"),
    "UnknownName": ("preset", "a", ["b", "c"]),
    "MissingPackage": ("reading", "fae-core[data]"),
    "OutputExists": ("runs/a", True),
    "FolderInUse": ("runs/a", "process 1"),
    "Interrupted": ("2 of 3 are done", 15, "fae run again"),
}


def modules_with_errors() -> list[str]:
    """Modules of all packages that define a class derived from FAEError. Importing every module would take 20 s."""
    classes = [
        (name, re.findall(r"\w+", bases), ".".join(path.relative_to(source).with_suffix("").parts))
        for source in PACKAGES.glob("*/src")
        for path in source.rglob("*.py")
        for name, bases in re.findall(r"^class (\w+)\((.*)\):", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    known = {"FAEError"}
    while new := {name for name, bases, _ in classes if known.intersection(bases)} - known:
        known |= new
    return sorted({module for _, bases, module in classes if known.intersection(bases)})


def subclasses(of: type) -> Iterator[type]:
    for one in of.__subclasses__():
        yield one
        yield from subclasses(one)


def all_errors() -> list[FAEError]:
    for module in modules_with_errors():
        importlib.import_module(module)
    classes = {one for one in subclasses(FAEError) if one.__module__.startswith("fae_")}
    assert MADE_OF.keys() < {one.__name__ for one in classes}
    return [one(*MADE_OF.get(one.__name__, ("what is wrong",))) for one in [FAEError, *classes]]


@pytest.mark.parametrize(
    "again",
    [
        *(lambda error, n=n: pickle.loads(pickle.dumps(error, n)) for n in range(6)),  # noqa: S301 (its own)
        copy.copy,
        copy.deepcopy,
    ],
    ids=[*(f"pickle protocol {n}" for n in range(6)), "copy", "deepcopy"],
)
def test_every_error_is_the_same_after_a_round_trip(again: Callable[[FAEError], FAEError]) -> None:
    for error in all_errors():
        error.add_note("where it was raised")
        found = again(error)
        assert type(found) is type(error)
        assert str(found) == str(error)
        assert repr(found) == repr(error)
        assert found.__dict__ == error.__dict__
        assert getattr(found, "exit_code", 2) == getattr(error, "exit_code", 2)


def mistake(name: str) -> None:
    raise errors.UnknownName("preset", name, ["tiny", "small"])


def test_an_error_of_another_process_arrives() -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool,
        pytest.raises(errors.UnknownName, match="unknown preset 'tny'; did you mean tiny"),
    ):
        list(pool.map(mistake, ["tny"]))
