"""Nothing half-written, nothing hostile believed: atomic files and folders, and readers that survive any bytes."""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fae_core.errors import FAEError, InvalidFile, OutputExists
from fae_core.files import (
    disk_errors,
    read_json,
    read_json_value,
    read_yaml,
    remove_leftovers,
    require_new_folder,
    sha256_file,
    staged_folder,
    write_atomic,
)

PROPERTY = settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=15)


@PROPERTY
@given(value=values)
def test_json_reads_back_what_was_written(value: object, tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    path.write_text(json.dumps(value))
    assert read_json_value(path) == value


@pytest.mark.parametrize("reader", [read_json, read_yaml])
def test_any_bytes_give_a_mapping_or_one_line_of_complaint(reader, tmp_path: Path) -> None:
    path = tmp_path / "config"

    @PROPERTY
    @given(st.binary(max_size=80) | st.text("{}[]:,-&*!?|>'\"#%@ \n\tab1.e", max_size=60).map(str.encode))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            assert isinstance(reader(path), dict)
        except InvalidFile as error:
            assert "\n" not in str(error)
            assert str(path) in str(error)

    check()


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": Infinity}', '{"a": -Infinity}', '{"a": 1e999}', '{"a": -1e999}'])
def test_json_numbers_are_finite(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InvalidFile, match="is not allowed"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        (read_json, "[" * 200_000),
        (read_json, '{"a":' * 200_000),
        (read_yaml, "[" * 200_000),
        (read_yaml, "{a: " * 50_000),
        (read_yaml, "- " * 50_000),
    ],
)
def test_deep_nesting_is_refused_at_once(reader, text: str, tmp_path: Path) -> None:
    (tmp_path / "deep").write_text(text)
    started = time.process_time()
    with pytest.raises(InvalidFile, match="nested too deeply"):
        reader(tmp_path / "deep")
    # A generous bound against the hours that PyYAML would take, not a measurement.
    assert time.process_time() - started < 30


def test_yaml_of_usual_depth_is_read(tmp_path: Path) -> None:
    nested = "a: {b: {c: [[[1, 2], [3]], {d: e}]}}\nlist:\n  - x: 1\n    y:\n      - z\n"
    (tmp_path / "a.yaml").write_text(nested * 1)
    assert read_yaml(tmp_path / "a.yaml") == {
        "a": {"b": {"c": [[[1, 2], [3]], {"d": "e"}]}},
        "list": [{"x": 1, "y": ["z"]}],
    }
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x\n",
        "!!python/object/apply:os.system ['true']",
        "a: !!python/name:os.system",
        "a: 1\n b: 2",
        "- a list",
        "just a string",
    ],
)
def test_yaml_with_aliases_objects_or_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InvalidFile):
        read_yaml(tmp_path / "a.yaml")


def test_large_missing_and_unfit_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" + "1," * 1000 + "1]")
    with pytest.raises(InvalidFile, match="at most 100 are read"):
        read_json(tmp_path / "a.json", max_bytes=100)
    with pytest.raises(InvalidFile, match="not a list"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InvalidFile, match="does not exist"):
        read_json(tmp_path / "b.json")
    with pytest.raises(InvalidFile, match="is a folder"):
        read_json(tmp_path)
    (tmp_path / "c.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InvalidFile, match="not UTF-8"):
        read_json(tmp_path / "c.json")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"old")
    write_atomic(tmp_path / "a", b"new content")
    assert (tmp_path / "a").read_bytes() == b"new content"
    assert names(tmp_path) == ["a"]


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "kept").write_text("x")
    with pytest.raises((FAEError, OSError)):
        write_atomic(tmp_path / "a", b"a file cannot replace a folder")
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["kept"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.ENOTDIR, "is a file"),
    ],
)
def test_refusals_of_the_disk_are_one_line(number: int, words: str) -> None:
    with pytest.raises(FAEError, match=f"cannot write here: .*{words}"), disk_errors("here"):
        raise OSError(number, "as the system says it")


def test_other_system_errors_pass_through() -> None:
    with pytest.raises(OSError, match="odd"), disk_errors("here"):
        raise OSError(errno.EIO, "odd")


def test_a_full_disk_is_one_line() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(FAEError, match="no space left"), disk_errors(full), full.open("wb", buffering=0) as file:
        file.write(b"x")


def test_a_staged_folder_appears_only_when_its_block_succeeds(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "out"
    with pytest.raises(RuntimeError, match="halfway"), staged_folder(final) as staging:
        (staging / "a").write_text("half")
        assert not final.exists()
        raise RuntimeError("halfway")
    assert names(tmp_path) == [], "the folders above were made for it"
    with staged_folder(final) as staging:
        (staging / "a").write_text("whole")
    assert names(tmp_path / "deep") == ["out"]
    assert (final / "a").read_text() == "whole"


def test_an_existing_folder_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with staged_folder(out) as staging:  # an empty folder may be used
        (staging / "old").write_text("old")
    with pytest.raises(OutputExists, match="--overwrite"), staged_folder(out):
        pytest.fail("the block must not run")
    with pytest.raises(RuntimeError), staged_folder(out, overwrite=True):
        raise RuntimeError
    assert names(out) == ["old"], "a failed replacement keeps the old folder"
    with staged_folder(out, overwrite=True) as staging:
        (staging / "new").write_text("new")
    assert names(out) == ["new"]


def test_leftovers_of_a_killed_process_count_as_nothing_and_can_be_removed(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.123.tmp").write_text("half")
    (tmp_path / ".model.123.tmp" / "deep").mkdir(parents=True)
    require_new_folder(tmp_path, overwrite=False)
    (tmp_path / "kept").write_text("whole")
    with pytest.raises(OutputExists):
        require_new_folder(tmp_path, overwrite=False)
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(FAEError, match="is a file"):
        require_new_folder(tmp_path / "out", overwrite=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "x").write_text("")
    with pytest.raises(OutputExists, match="--resume"):
        require_new_folder(tmp_path / "run", overwrite=False, resumable=True)


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
