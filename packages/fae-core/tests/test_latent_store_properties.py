"""The latent store under hypothesis: any store reads back as written, any damage is found or changes nothing."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fae_core import LatentSpec, LatentStore
from fae_core.errors import DataError, FAEError
from fae_core.images.captions import split_captions
from fae_core.latent_store import LatentStoreWriter, Plan, write_store
from fae_core.latent_store.format import DTYPES
from fae_core.random import SlotRandom

PROPERTY = settings(max_examples=40, deadline=None, derandomize=True, database=None)
texts = st.text(st.characters(), max_size=6)  # lone surrogates too: names of files need not be Unicode


@dataclass
class Written:
    """What went into a store, of the samples that were not skipped."""

    plan: Plan
    spec: LatentSpec
    latents: dict[str, Tensor]
    kept: list[int]
    labels: list[int]
    names: list[str]
    captions: list[str]
    skipped: list[int] = field(default_factory=list)


@st.composite
def stores(draw: st.DrawFn) -> Written:
    side = st.integers(1, 3)
    channels = draw(side)
    spec = LatentSpec(channels, draw(side), draw(side), 16, "toy", mean=[0.5] * channels, std=[2.0] * channels)
    total = draw(st.integers(1, 12))
    plan = Plan(
        total=total,
        shard_size=draw(st.integers(1, 13)),
        dtype=draw(st.sampled_from(sorted(DTYPES))),
        posterior=draw(st.sampled_from(["distribution", "mean", "sample"])),
        flips=draw(st.booleans()),
        labels=draw(st.booleans()),
        captions=draw(st.booleans()),
    )
    skipped = draw(st.lists(st.integers(0, total - 1), unique=True, max_size=total - 1))
    kept = [place for place in range(total) if place not in skipped]
    random = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    shape = (total, *spec.shape)
    latents = {
        name: torch.randn(shape, generator=random).mul(9).exp2().clamp(max=999).to(getattr(torch, plan.dtype)).float()
        for name in plan.latents()
    }
    each = {"min_size": total, "max_size": total}
    labels = draw(st.lists(st.integers(-1, 2**63 - 1), **each))
    return Written(
        plan, spec, latents, kept, labels, draw(st.lists(texts, **each)), draw(st.lists(texts, **each)), skipped
    )


def write(folder: Path, made: Written, batch: int = 3) -> LatentStore:
    writer = LatentStoreWriter(folder, made.spec, made.plan)
    for number in reversed(range(made.plan.shards)):  # in any order
        shard = writer.shard(number)
        places = [place for place in shard.range if place in made.kept]
        for start in range(0, len(places), batch):
            some = places[start : start + batch]
            shard.add(
                some,
                {name: values[some] for name, values in made.latents.items()},
                names=[made.names[i] for i in some],
                labels=[made.labels[i] for i in some] if made.plan.labels else None,
                captions=[made.captions[i] for i in some] if made.plan.captions else None,
            )
        for place in shard.range:
            if place in made.skipped:
                shard.skip(place, "as told")
        shard.commit()
    return writer.finish("spec")


def readable(text: str) -> str:
    """A text as a store gives it back: what is no Unicode has become a question mark."""
    return text.encode(errors="replace").decode()


@PROPERTY
@given(made=stores(), order=st.randoms(use_true_random=False))
def test_any_store_reads_back_as_it_was_written(made: Written, order: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = write(Path(folder) / "s", made)
        store.verify()
        assert len(store) == len(made.kept) and store.spec == made.spec
        rows = list(range(len(store)))
        order.shuffle(rows)
        places = [made.kept[row] for row in rows]
        wanted = (made.latents["mean"][places] - 0.5) / 2.0
        z, labels = store.read(rows)
        torch.testing.assert_close(z, wanted, rtol=1e-6, atol=1e-6)
        assert (None if labels is None else labels.tolist()) == (
            [made.labels[place] for place in places] if made.plan.labels else None
        )
        for flip in (False, True) if made.plan.flips else (False,):
            mean, std = store.read_posterior(rows, flip=flip)
            side = "_flip" if flip else ""
            assert torch.equal(mean, made.latents[f"mean{side}"][places])
            assert (std is None) == (made.plan.posterior != "distribution")
            assert std is None or torch.equal(std, made.latents[f"std{side}"][places])
        for row, place in zip(rows, places, strict=True):
            sample = store[row]
            assert sample.source == place and sample.name == readable(made.names[place])
            wanted = split_captions(readable(made.captions[place])) if made.plan.captions else []
            assert list(sample.captions) == wanted and sample.caption == (wanted[0] if wanted else None)
        assert sorted(
            place for place, _ in LatentStoreWriter(folder + "/s", made.spec, made.plan, resume=True).skipped()
        ) == sorted(made.skipped)


@PROPERTY
@given(
    count=st.integers(1, 40),
    shard_size=st.integers(1, 41),
    batch=st.integers(1, 9),
    world=st.integers(1, 7),
    seed=st.none() | st.integers(0, 2**70),
    epoch=st.integers(0, 3),
)
def test_processes_see_each_sample_once(
    count: int, shard_size: int, batch: int, world: int, seed: int | None, epoch: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        z = torch.arange(float(count)).view(-1, 1, 1, 1)
        store = write_store(Path(folder) / "s", LatentSpec(1, 1, 1, 8, "toy"), z, shard_size=shard_size)
        shares = [
            [b.flatten() for b, _ in store.batches(batch, seed=seed, epoch=epoch, rank=r, world=world)]
            for r in range(world)
        ]
        seen = torch.cat([part for share in shares for part in share])
        assert sorted(seen.tolist()) == list(range(count))
        alone = torch.cat([b.flatten() for b, _ in store.batches(batch * world, seed=seed, epoch=epoch)])
        together = [share[i] for i in range(max(map(len, shares))) for share in shares if i < len(share)]
        assert torch.equal(torch.cat(together), alone), "the global batches are those of one process"


FILES = ("index.json", "latent_spec.json", "labels.npy", "shard-000000.safetensors", "shard-000001.safetensors")
SPEC = LatentSpec(2, 2, 2, 16, "toy", mean=[0.5, 1.0], std=[2.0, 3.0])


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mean = torch.randn(7, *SPEC.shape, generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("valid") / "s"
    write_store(
        folder, SPEC, mean, std=mean.abs() + 1, labels=[0, 1, 2, 0, 1, 2, 0], classes=["a", "b", "c"],
        names=list("qwertyu"), captions=["one", "", "three", "4", "5", "6", "7"], dtype="float16", shard_size=4,
    )  # fmt: skip
    return folder


def everything(store: LatentStore) -> list[Any]:
    """All that can be read from a store."""
    z, labels = store.read(slice(None), SlotRandom(0, range(len(store))))
    samples = [store[i] for i in range(len(store))]
    rest = [(s.name, s.caption, s.label, s.source) for s in samples]
    return [z.numpy().tobytes(), store.read(slice(None))[0].numpy().tobytes(), labels.tolist(), rest, store.classes]


def outcome(valid: Path, file: str, change: Callable[[bytes], bytes | None], verify: bool) -> list[Any] | None:
    """What a store gives with one file changed (None: deleted); None where it is refused, in one line."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "s"
        shutil.copytree(valid, copy)
        data = change((copy / file).read_bytes())
        (copy / file).unlink() if data is None else (copy / file).write_bytes(data)
        try:
            store = LatentStore(copy)
            if verify:
                store.verify()
            return everything(store)
        except FAEError as error:
            assert "\n" not in str(error)
            return None


edits = st.lists(
    st.tuples(
        st.integers(0, 2000), st.sampled_from(["change", "insert", "remove", "cut"]), st.binary(min_size=1, max_size=9)
    ),
    min_size=1,
    max_size=4,
)


def edited(data: bytes, changes: list[tuple[int, str, bytes]]) -> bytes:
    for place, kind, piece in changes:
        place %= len(data) + 1
        match kind:
            case "change":
                data = data[:place] + piece + data[place + len(piece) :]
            case "insert":
                data = data[:place] + piece + data[place:]
            case "remove":
                data = data[:place] + data[place + len(piece) :]
            case "cut":
                data = data[:place]
    return data


@pytest.mark.parametrize("file", FILES)
def test_damaged_bytes_are_found_or_change_nothing(valid: Path, file: str) -> None:
    """With `verify`, shards and labels can only be refused or be what they were. JSON has no checksum of its own: it
    may say something else that makes sense, but whatever it says ends in a result or in one line; so does reading
    without `verify`."""
    whole = everything(LatentStore(valid))

    @settings(PROPERTY, max_examples=60)
    @given(changes=edits, verify=st.booleans())
    def check(changes: list[tuple[int, str, bytes]], verify: bool) -> None:
        found = outcome(valid, file, lambda data: edited(data, changes), verify)
        if verify and found is not None and not file.endswith(".json"):
            assert found == whole

    check()


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_not_there_is_one_line(valid: Path, file: str) -> None:
    assert outcome(valid, file, lambda _: None, verify=False) is None
    assert outcome(valid, file, lambda _: None, verify=True) is None
    assert outcome(valid, file, lambda _: b"", verify=True) is None


numbers = st.sampled_from([0, 1, -1, 2, 7, 8, 2**31, 2**63 - 1, 2**63, 10**30, 1.5, 8.0, 1e300])
json_values = st.recursive(
    numbers | st.none() | st.booleans() | st.sampled_from(["", "a\nb", "F16", "float32", "mean"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["mean", "a\nb"]), inner, max_size=2),
    max_leaves=6,
)


def leaves(value: Any, path: tuple = ()) -> list[tuple]:
    """The path of every value within a JSON value."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [inner for key, item in items for inner in leaves(item, (*path, key))]


def replaced(value: Any, changes: list[tuple[int, Any]]) -> Any:
    """JSON with a few of its values, however deep, replaced by others."""
    for number, new in changes:
        paths = leaves(value)
        *parents, last = paths[number % len(paths)]
        place = value
        for key in parents:
            place = place[key]
        place[last] = new
    return value


replacements = st.lists(st.tuples(st.integers(0, 200), json_values), min_size=1, max_size=3)


@pytest.mark.parametrize("file", ["index.json", "latent_spec.json"])
def test_json_that_says_anything_else_is_a_store_or_one_line(valid: Path, file: str) -> None:
    @settings(PROPERTY, max_examples=150)
    @given(changes=replacements, verify=st.booleans())
    def check(changes: list[tuple[int, Any]], verify: bool) -> None:
        outcome(valid, file, lambda data: json.dumps(replaced(json.loads(data), changes)).encode(), verify)

    check()


def with_header(data: bytes, change: Callable[[Any], Any]) -> bytes:
    """A shard of the same size with another header."""
    length = int.from_bytes(data[:8], "little")
    text = json.dumps(change(json.loads(data[8 : 8 + length])), separators=(",", ":")).encode()
    return (len(text).to_bytes(8, "little") + text + data[8 + length :])[: len(data)].ljust(len(data), b"\0")


def test_a_header_that_says_anything_else_is_a_shard_or_one_line(valid: Path) -> None:
    @settings(PROPERTY, max_examples=200)
    @given(changes=replacements)
    def check(changes: list[tuple[int, Any]]) -> None:
        outcome(valid, FILES[3], lambda data: with_header(data, lambda header: replaced(header, changes)), verify=False)

    check()


def damaged_labels(kind: str) -> bytes:
    import io

    buffer = io.BytesIO()
    if kind == "zip":
        np.savez(buffer, np.arange(7))
    elif kind == "objects":
        np.save(buffer, np.array([{}] * 7), allow_pickle=True)
    else:
        header = {
            "code": "{'descr': __import__('os')}",
            "shape": "{'descr': '<i8', 'fortran_order': False, 'shape': (10**30,)}",
        }
        text = header.get(kind, "(" * 5000).encode()
        buffer.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "objects", "code", "shape", "deep"])
@pytest.mark.parametrize("verify", [False, True])
def test_labels_that_are_no_array_of_numbers_are_one_line(valid: Path, kind: str, verify: bool) -> None:
    assert outcome(valid, "labels.npy", lambda _: damaged_labels(kind), verify) is None


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F16", "shape": [4, 2, 2, 2], "data_offsets": [0, 64.0]},
        {"dtype": "F16", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]},
        {"dtype": "U8", "shape": [1] * 100, "data_offsets": [0, 1]},
        {"dtype": "F16", "shape": [4, 2, 2, 2], "data_offsets": [False, 64]},
    ],
)
def test_shapes_and_offsets_that_numpy_would_choke_on_are_one_line(valid: Path, entry: dict, tmp_path: Path) -> None:
    shutil.copytree(valid, tmp_path / "s")
    path = tmp_path / "s" / FILES[3]

    def other(header: dict) -> dict:  # no longer than the header was, so that the data stay where they are
        return {name: kept for name, kept in header.items() if "name" not in name and "caption" not in name} | {
            "e": entry
        }

    path.write_bytes(with_header(path.read_bytes(), other))
    with pytest.raises(DataError, match="is not a shard"):
        LatentStore(tmp_path / "s").read([0])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"name_offsets": None}, "a name for each"),
        ({"caption_bytes": None}, "a caption for each"),
        ({"name_offsets": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, "a name for each"),
        ({"name_offsets": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}}, "a name for each"),
    ],
)
def test_texts_that_are_not_one_for_each_sample_are_one_line(
    valid: Path, change: dict, complaint: str, tmp_path: Path
) -> None:
    shutil.copytree(valid, tmp_path / "s")
    path = tmp_path / "s" / FILES[3]

    def other(header: dict) -> dict:
        return {name: entry for name, entry in {**header, **change}.items() if entry is not None}

    path.write_bytes(with_header(path.read_bytes(), other))
    with pytest.raises(DataError, match=complaint):
        LatentStore(tmp_path / "s")[0]


def test_a_spec_of_another_size_does_not_decide_how_much_memory_is_taken(valid: Path, tmp_path: Path) -> None:
    shutil.copytree(valid, tmp_path / "s")
    huge = LatentSpec(2, 65536, 65536, 16, "toy")
    huge.save(tmp_path / "s")
    with pytest.raises(DataError, match="does not hold mean of shape"):
        LatentStore(tmp_path / "s", verify=False).read(slice(None))


def test_counts_that_do_not_fit_the_plan_are_one_line(valid: Path, tmp_path: Path) -> None:
    shutil.copytree(valid, tmp_path / "s")
    path = tmp_path / "s" / "index.json"
    stored = json.loads(path.read_text())
    for counts in ([8, -1], [3, 4], [0, 7]):
        shards = [[count, *rest] for count, (_, *rest) in zip(counts, stored["shards"], strict=True)]
        path.write_text(json.dumps({**stored, "shards": shards}))
        with pytest.raises(DataError, match="a shard has more samples than its range"):
            LatentStore(tmp_path / "s")
    path.write_text(json.dumps({**stored, "plan": {**stored["plan"], "total": 10**30}}))
    with pytest.raises(DataError, match=r"plan\.total"):
        LatentStore(tmp_path / "s")
    path.write_text(json.dumps({**stored, "a\nb": 1}))
    with pytest.raises(DataError) as caught:
        LatentStore(tmp_path / "s")
    assert "\n" not in str(caught.value)
