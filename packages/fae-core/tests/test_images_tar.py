"""Tar shards: what they hold is found without extracting anything, and hostile ones are refused in one line."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fae_core.errors import DataError
from fae_core.images import open_images
from fae_core.images.captions import split_captions
from fae_core.images.shards import ShardFiles, reason, shard_name
from fae_core.images.tar import scan
from fae_core.places import expand


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FAE_CACHE", str(folder))
    return folder


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (value, 0, 255 - value)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], change: Callable[[tarfile.TarInfo], None] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if change is not None:
                change(info)
            archive.addfile(info, io.BytesIO(data))
    return path


def shard(path: Path, first: int, count: int) -> Path:
    members: dict[str, bytes] = {}
    for i in range(first, first + count):
        members[f"set/{i:04d}.cls"] = str(i % 3).encode()
        members[f"set/{i:04d}.png"] = picture(i)
        members[f"set/{i:04d}.txt"] = f"number {i}".encode()
    return write_tar(path, members)


def test_samples_lie_in_the_order_of_the_shards(tmp_path: Path) -> None:
    shard(tmp_path / "data" / "a-000.tar", 0, 5)
    shard(tmp_path / "data" / "a-001.tar", 5, 3)
    for source in (tmp_path / "data", f"{tmp_path}/data/a-{{000..001}}.tar"):
        images = open_images(source)
        assert len(images) == 8 and images.blocks == [5, 3]
        assert images.labels == [0, 1, 2, 0, 1, 2, 0, 1]
        assert [images.read(i).getpixel((0, 0))[0] for i in (7, 0, 5)] == [7, 0, 5]
        assert list(images.captions) == [f"number {i}" for i in range(8)]
        assert images.name(6).endswith("a-001.tar/set/0006")


def test_several_captions_come_from_json_members_and_other_ones_are_left_alone(tmp_path: Path, cache: Path) -> None:
    members = {}
    for i in range(3):
        members[f"{i}.png"] = picture(i)
        members[f"{i}.txt"] = f"web text {i}".encode()
        members[f"{i}.json"] = json.dumps({"url": "x", "captions": [f"web text {i}", "described"]}).encode()
    members["2.json"] = b'{"caption": "as in the .txt", "keys": ["captions"]}'
    members["alone.json"] = b"{"
    for _ in range(2):  # the second time from the cached index
        source = open_images(write_tar(tmp_path / "a.tar", members))
        assert [split_captions(text) for text in source.captions] == [
            ["web text 0", "described"],
            ["web text 1", "described"],
            ["web text 2"],
        ]
    for content, words in (
        (b'{"captions": "one"}', "no list of texts"),
        (b'{"captions": []}', "no list of texts"),
        (b'{"captions": [1]}', "no list of texts"),
    ):
        source = open_images(write_tar(tmp_path / "b.tar", {"0.png": picture(0), "0.json": content}))
        with pytest.raises(DataError, match=words):
            source.captions[0]
    for content in (b'{"captions": ["cut', b'{"captions": ["\xff"]}', b"[" * 10**5 + b'"captions"'):
        with pytest.raises(DataError, match=r"0\.json"):
            open_images(write_tar(tmp_path / "c.tar", {"0.png": picture(0), "0.json": content}))


def test_a_second_opening_uses_the_cached_index_until_the_shard_changes(tmp_path: Path, cache: Path) -> None:
    path = shard(tmp_path / "a.tar", 0, 2)
    open_images(path)
    (index,) = (cache / "tar-index").iterdir()
    before = index.stat().st_mtime_ns
    assert len(open_images(path)) == 2 and index.stat().st_mtime_ns == before
    index.write_bytes(b"damaged")
    assert len(open_images(path)) == 2
    shard(path, 0, 3)
    assert len(open_images(path)) == 3


def test_a_slice_keeps_its_blocks(tmp_path: Path) -> None:
    shard(tmp_path / "data" / "a.tar", 0, 4)
    shard(tmp_path / "data" / "b.tar", 4, 4)
    assert open_images(f"{tmp_path}/data[2:7]").blocks == [2, 3]
    assert open_images(f"{tmp_path}/data[::-1]").blocks is None


def test_remote_shards_are_copied_once_and_make_room_for_each_other(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec comes with torch or fae-core[data]")
    remote = fsspec.filesystem("memory")
    for i in range(4):
        remote.pipe(f"/shards/r-{i}.tar", shard(tmp_path / "r.tar", 5 * i, 5).read_bytes())
    size = len(remote.cat("/shards/r-0.tar"))
    monkeypatch.setenv("FAE_SHARD_CACHE_GB", str(2.5 * size / 1e9))
    images = open_images("memory://shards/r-{0..3}.tar")
    assert len(images) == 20
    assert [images.read(i).getpixel((0, 0))[0] for i in (19, 0, 7, 13)] == [19, 0, 7, 13]
    assert len(list((cache / "shards").glob("*.tar"))) == 2
    with pytest.raises(DataError, match=r"cannot read memory://shards/none.tar"):
        open_images("memory://shards/none.tar")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which this machine serves it."""
    pytest.importorskip("aiohttp", reason="needs fae-core[data]")
    folder = tmp_path / "served"
    folder.mkdir()
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_signed_addresses_are_read_and_signed_anew_are_the_same_shards(served: tuple[Path, str], cache: Path) -> None:
    folder, address = served
    for i in range(2):
        shard(folder / f"s-{i}.tar", 3 * i, 3)
    for secret in ("c0ffee", "bead"):
        images = open_images(f"{address}/s-{{0..1}}.tar?X-Amz-Signature={secret}&file=s.parquet")
        assert [images.read(i).getpixel((0, 0))[0] for i in range(6)] == list(range(6))
        assert images.name(4) == f"{address}/s-1.tar/set/0004"
    assert [path.name[17:] for path in sorted((cache / "shards").glob("*.tar"), key=lambda path: path.name[17:])] == [
        "s-0.tar",
        "s-1.tar",
    ]
    assert len(open_images(f"{address}/s-0.tar?a=b[1:]")) == 2
    with pytest.raises(DataError, match=r"/s-0\.txt\?\*\*\*: patterns and remote addresses name"):
        open_images(f"{address}/s-0.txt?sig=c0ffee")


def test_why_an_address_cannot_be_read_is_said_without_its_secrets(served: tuple[Path, str]) -> None:
    _, address = served
    with socket.socket() as free:  # nobody listens there
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for base, why in ((address, "404"), (f"http://127.0.0.1:{port}", f"onnect.*{port}")):
        for name in ("absent.tar", "absent.parquet", "absent.tar?X-Amz-Signature=c0ffee", "a-{0..1}.tar?sig=c0ffee"):
            with pytest.raises(DataError, match=rf"cannot read {base}/a[^ ]+: .*{why}") as refused:
                open_images(f"{base}/{name}")
            assert "c0ffee" not in str(refused.value)


def test_what_an_error_says_is_cut_only_once_its_secrets_are_gone() -> None:
    address = f"https://host/{'x' * 150}.tar"
    said = reason(OSError(f"no answer from https://me:{'pa55' * 30}@host/x"), address)
    assert said == "no answer from https://***@host/x"
    assert reason(FileNotFoundError(address), address) == "there is no such file"
    caused = FileNotFoundError(address)
    caused.__cause__ = PermissionError("403")
    assert reason(caused, address) == "403"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://me:pa55@host/a/x.tar?sig=c0ffee", "https://host/a/x.tar"),
        ("https://host/get?file=x.tar", "https://host/get?file=x.tar"),
        ("https://host/get?token=c0ffee&file=x.tar", "https://host/get?token=***&file=x.tar"),
        ("s3://me:pa/5@bucket/session_key=2/x.tar", "s3://bucket/session_key=2/x.tar"),
        ("s3://bucket/part#1/x.tar", "s3://bucket/part#1/x.tar"),
        ("simplecache::https://me@host/x.tar#c0ffee", "simplecache::https://host/x.tar"),
        ("memory://x.tar", "memory://x.tar"),
        ("/data/a?b#c/x.tar", "/data/a?b#c/x.tar"),
    ],
)
def test_a_shard_is_called_by_what_does_not_change_when_it_is_signed_anew(address: str, name: str) -> None:
    assert shard_name(address) == name


def test_a_copy_that_makes_room_for_others_can_be_read_to_its_end(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec comes with torch or fae-core[data]")
    remote = fsspec.filesystem("memory")
    contents = {f"memory://room/{i}.tar": bytes([i]) * 4096 for i in range(6)}
    for address, data in contents.items():
        remote.pipe(address.removeprefix("memory:/"), data)
    monkeypatch.setenv("FAE_SHARD_CACHE_GB", "5e-6")  # one copy at a time

    def read(address: str) -> bool:
        with ShardFiles().open(address) as file:
            return file.read() == contents[address]

    with ThreadPoolExecutor(8) as pool:  # each takes the others' copies away
        assert all(pool.map(read, list(contents) * 50))
    assert len(list((cache / "shards").glob("*.tar"))) <= 2


@pytest.mark.parametrize(
    ("members", "change", "words"),
    [
        ({"../0.png": b"x"}, None, "leads out of the archive"),
        ({"/etc/0.png": b"x"}, None, "leads out of the archive"),
        ({"0.png": b""}, lambda info: setattr(info, "type", tarfile.SYMTYPE), "a link or a special file"),
        ({"0.png": b""}, lambda info: setattr(info, "type", tarfile.LNKTYPE), "a link or a special file"),
        ({"0.png": b""}, lambda info: setattr(info, "type", tarfile.CHRTYPE), "a link or a special file"),
        ({"0.cls": b"cat", "0.png": b"x"}, None, "does not hold a class index"),
        ({"0.json": b"{}"}, None, "holds no images"),
        ({"0.png": b"x", "1.png": b"y", "1.cls": b"3"}, None, "some samples have a .cls member"),
    ],
)
def test_strange_shards_are_refused(tmp_path: Path, members: dict, change, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        open_images(write_tar(tmp_path / "a.tar", members, change))
    assert "\n" not in str(caught.value) and "a.tar" in str(caught.value)


def test_cut_off_and_compressed_shards_are_refused(tmp_path: Path) -> None:
    whole = shard(tmp_path / "a.tar", 0, 3).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.tar"):
        open_images(tmp_path / "cut.tar")
    with tarfile.open(tmp_path / "z.tar", "w:gz") as archive:
        archive.add(tmp_path / "a.tar", "0.png")
    with pytest.raises(DataError, match=r"not a readable plain \.tar"):
        open_images(tmp_path / "z.tar")


def test_a_shard_that_shrinks_under_its_reader_is_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", 0, 3)
    images = open_images(path)
    with path.open("r+b") as file:
        file.truncate(1024)
    with pytest.raises(DataError, match="cut off or replaced"):
        images.read(2)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), max_size=12), cut=st.integers(0, 20_000))
def test_any_damage_gives_an_index_or_one_line(tmp_path: Path, edits: list[tuple[int, int]], cut: int) -> None:
    whole = bytearray(shard(tmp_path / "a.tar", 0, 4).read_bytes())
    for place, value in edits:
        whole[place % len(whole)] = value
    damaged = bytes(whole[: max(1, len(whole) - cut)])
    try:
        index = scan(io.BytesIO(damaged), "b.tar")
    except DataError as error:
        assert "\n" not in str(error)
    else:
        ends = index.image.sum(axis=1)
        assert (ends <= len(damaged)).all() and index.label.dtype == np.int64


def test_patterns_count_upwards_with_their_zeros() -> None:
    assert expand("x-{08..11}.tar") == ["x-08.tar", "x-09.tar", "x-10.tar", "x-11.tar"]
    assert expand("{1..2}/{0..1}.tar") == ["1/0.tar", "1/1.tar", "2/0.tar", "2/1.tar"]
    with pytest.raises(DataError, match="upwards"):
        expand("x-{5..2}.tar")
