"""Whatever lies under a document's name is plain data or one line, at once: pipes, devices, other encodings, bombs,
keys that are there twice."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch

from fae_core.documents import parse_json, parse_yaml, read_json, read_json_value, read_text, read_yaml
from fae_core.errors import DataError, InvalidFile
from fae_core.files import sha256_file
from fae_core.files.digests import FileDigests
from fae_core.images import open_images
from fae_core.latent_store import LatentStore, write_store
from fae_core.spec import LatentSpec

READERS = [read_json, read_yaml, read_text]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty", "/proc/self/mem"])
def test_devices_and_unreadable_files_are_refused(reader, device: str) -> None:
    with pytest.raises(InvalidFile, match=r"not a regular file|cannot read"):
        reader(device)


@pytest.mark.parametrize("reader", READERS)
def test_pipes_sockets_folders_and_loops_are_refused_without_waiting(reader, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("pipe")
    for name, complaint in (
        ("pipe", "not a regular file"),
        ("link", "not a regular file"),
        (".", "is a folder"),
        ("loop", "cannot read"),
        ("dangling", "does not exist"),
        ("x" * 300, "cannot read"),
        ("a\0b", "cannot read"),
        ("pipe/x", "cannot read"),
    ):
        with pytest.raises(InvalidFile, match=complaint) as caught:
            reader(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_neither_a_hash_nor_a_store_waits_for_a_pipe(tmp_path: Path) -> None:
    write_store(tmp_path / "store", LatentSpec(1, 2, 2, 8, "toy"), torch.zeros(4, 1, 2, 2), labels=[0, 1, 0, 1])
    (tmp_path / "store" / "labels.npy").unlink()
    os.mkfifo(tmp_path / "store" / "labels.npy")
    with pytest.raises(DataError, match="not a regular file"):
        LatentStore(tmp_path / "store").read([0])
    with pytest.raises(InvalidFile, match="not a regular file"):
        sha256_file(tmp_path / "store" / "labels.npy")


def test_the_reader_chooses_the_kind_of_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_text(tmp_path / "absent", error=DataError)


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}')
    assert read_json(tmp_path / "a") == read_yaml(tmp_path / "a") == {"a": 1}
    assert read_text(tmp_path / "a") == '{"a": 1}'


@pytest.mark.parametrize(
    "data", ['{"a": 1}'.encode("utf-16"), '{"a": "é"}'.encode("latin-1"), b'{"a": "\xed\xa0\x80"}']
)
@pytest.mark.parametrize("reader", READERS)
def test_other_encodings_are_refused(reader, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(InvalidFile, match="not UTF-8"):
        reader(tmp_path / "a")


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: 2\na: 3",
        "x: {a: 1, 'a': 2}",
        "x: [{b: {a: 1, a: 2}}]",
        "x:\n  a: 1\n  b: 2\n  a: 1",
        "<<: {a: 1}\nb: 1\nb: 2",
    ],
)
def test_a_key_that_yaml_has_twice_is_refused_at_every_depth(text: str) -> None:
    with pytest.raises(ValueError, match=r"the key '[ab]' is there twice"):
        parse_yaml(text)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 1}}]', '{"a": 1, "\\u0061": 2}'])
def test_a_key_that_json_has_twice_is_refused_at_every_depth(text: str) -> None:
    with pytest.raises(ValueError, match="the key 'a' is there twice"):
        parse_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: [" + "[]," * 80_000 + "]",
        "- []\n" * 43_000,
        "a: {" + "".join(f"k{i}: 1, " for i in range(20_000)) + "}",
        "a: " + "1:" * 100_000 + "1",
        "a: " + "1:" * 100_000 + "1.5",
        "a: 0x" + "f" * 200_000,
        "a: 0b" + "1" * 200_000,
        "a: " + "9" * 200_000,
        "? " * 60_000,
        "{" * 60_000,
    ],
)
def test_small_yaml_bombs_are_refused_soon(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    started = time.process_time()
    with pytest.raises(InvalidFile) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert time.process_time() - started < 5  # against the 23 seconds that the worst of them took; not a measurement


def test_large_settings_of_usual_form_are_read() -> None:
    text = (
        "mean: [" + ", ".join(["0.125"] * 4096) + "]\nfiles:\n" + "".join(f"  f{i}: {'a' * 64}\n" for i in range(2000))
    )
    value = parse_yaml(text)
    assert len(value["mean"]) == 4096 and len(value["files"]) == 2000


def test_json_as_deep_as_yaml_may_be_and_no_deeper() -> None:
    assert parse_json("[" * 60 + "]" * 60) is not None
    for text in ("[" * 80 + "]" * 80, '{"a":' * 80 + "1" + "}" * 80, "[" * 10**6):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(text)


def test_half_a_character_is_refused_and_two_halves_are_one(tmp_path: Path) -> None:
    assert parse_json('{"a": "\\ud83d\\ude00", "b": "\\u00e9"}') == {"a": "\U0001f600", "b": "é"}
    for text in ('{"a": "\\ud800"}', '["\\udc00\\ud800"]', '{"\\uDBFF": 1}'):
        with pytest.raises(ValueError, match="surrogates") as caught:
            parse_json(text)
        assert "\n" not in str(caught.value)
    (tmp_path / "a.json").write_text('{"a": "\\ud800"}')
    with pytest.raises(InvalidFile, match=r"a\.json is not valid JSON"):
        read_json_value(tmp_path / "a.json")


def test_an_integer_of_5000_digits_is_refused_in_both(tmp_path: Path) -> None:
    for reader in (read_json, read_yaml):
        (tmp_path / "a").write_text(json.dumps({"a": 0}).replace("0", "1" * 5000))
        with pytest.raises(InvalidFile, match="digits"):
            reader(tmp_path / "a")


@pytest.mark.parametrize("name", ["a.png", "a.tar", "a.npz", "a.parquet", "a.txt"])
def test_images_are_not_waited_for_in_a_pipe(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="not a regular file"):
        open_images(tmp_path / name)
    with FileDigests(tmp_path / "cache", str) as digests, pytest.raises(DataError, match="not a regular file"):
        digests.of(tmp_path / name)


@pytest.mark.parametrize("name", ["a.tar", "a.parquet", "a.png"])
def test_nor_in_a_folder_with_a_pipe_in_it(name: str, tmp_path: Path) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="needs fae-core[data]")
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError):
        open_images(tmp_path).read(0)
