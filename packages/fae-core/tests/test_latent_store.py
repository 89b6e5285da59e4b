"""Claims about the latent store: what is read is what was written, whatever was killed, and damage is noticed."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from fae_core import LatentSpec, LatentStore, SlotRandom
from fae_core.errors import DataError, FAEError, LatentSpecMismatch, OutputExists
from fae_core.images.captions import join_captions
from fae_core.latent_store import LatentStoreWriter, Plan, write_store
from fae_core.latent_store.statistics import ChannelSums

SPEC = LatentSpec(3, 2, 4, 32, "toy/backbone", fingerprint="abc")


def latents(count: int, spec: LatentSpec = SPEC, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return 3.0 * torch.randn(count, *spec.shape, generator=random) + torch.arange(3.0).view(3, 1, 1)


def write_shard(writer: LatentStoreWriter, number: int, mean: torch.Tensor, batch: int) -> None:
    shard = writer.shard(number)
    for start in range(shard.range.start, shard.range.stop, batch):
        places = range(start, min(start + batch, shard.range.stop))
        shard.add(list(places), {"mean": mean[places.start : places.stop]}, names=[f"image {i}" for i in places])
    shard.commit()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_latents_come_back_normalised_in_any_order(tmp_path: Path, dtype: str) -> None:
    spec = SPEC.with_statistics([0.5, -1.0, 2.0], [2.0, 0.5, 3.0])
    mean, labels = latents(11), [i % 3 for i in range(11)]
    store = write_store(tmp_path / "s", spec, mean, labels=labels, classes=["a", "b", "c"], dtype=dtype, shard_size=4)
    stored = mean.to(getattr(torch, dtype)).float()
    order = [10, 0, 1, 2, 3, 4, 7, 7, -1]
    z, read_labels = store.read(order)
    assert torch.equal(z, spec.normalize(stored[order]))
    assert read_labels.tolist() == [labels[i] for i in order]
    assert store.labels.dtype == np.int64
    assert store.labels.tolist() == labels
    assert store.classes == ["a", "b", "c"]
    assert len(store) == 11
    assert store.spec == spec


def test_a_buffer_of_the_callers_is_filled(tmp_path: Path) -> None:
    store = write_store(
        tmp_path / "s", SPEC, latents(6), std=torch.ones(6, *SPEC.shape), statistics="data", shard_size=4
    )
    buffer = torch.zeros(3, *SPEC.shape)
    for random in (None, SlotRandom(0, range(3))):
        z, _ = store.read([5, 2, 3], random, out=buffer)
        assert z.data_ptr() == buffer.data_ptr()
        assert torch.equal(buffer, store.read([5, 2, 3], random)[0])
    with pytest.raises(DataError, match="out must be"):
        store.read([0], out=buffer)


def test_a_sample_carries_its_label_name_caption_and_place(tmp_path: Path) -> None:
    captions = ["ein Hund", "", "日本語"]
    store = write_store(
        tmp_path / "s",
        SPEC,
        latents(3),
        labels=[5, 6, 7],
        names=["a.png", "b/ü.png", "c"],
        captions=captions,
        shard_size=2,
    )
    samples = [store[i] for i in range(3)]
    assert [s.caption for s in samples] == store.captions == captions
    assert [s.name for s in samples] == ["a.png", "b/ü.png", "c"]
    assert [(s.label, s.source) for s in samples] == [(5, 0), (6, 1), (7, 2)]
    torch.testing.assert_close(samples[1].z, latents(3)[1])


def test_a_sample_of_several_captions_has_the_first_and_all(tmp_path: Path) -> None:
    captions = [join_captions(["a", "b"], ""), "c"]
    first, second = write_store(tmp_path / "s", SPEC, latents(2), captions=captions)
    assert (first.caption, first.captions) == ("a", ("a", "b"))
    assert (second.caption, second.captions) == ("c", ("c",))
    assert default_collate([first, second])["caption"] == ["a", "c"]


@pytest.mark.parametrize(
    ("indices", "complaint"),
    [
        (np.array([True, False, True]), "integers, not bool; give numpy.flatnonzero"),  # as integers: samples 1, 0, 1
        (torch.tensor([0.9, 1.9]), "integers, not float32"),
        ([0, 3], "sample 3 does not exist"),
        ([-4], "sample -4 does not exist"),
        ([[0]], "shape"),
    ],
)
def test_what_is_no_list_of_indices_is_refused(tmp_path: Path, indices: object, complaint: str) -> None:
    store = write_store(tmp_path / "s", SPEC, latents(3), labels=[0, 1, 0])
    for read in (store.read, store.read_posterior, store.__getitems__):
        with pytest.raises(DataError, match=complaint):
            read(indices)
    assert len(store.read([])[0]) == 0 and store.read(np.flatnonzero(store.labels == 0))[1].tolist() == [0, 0]


def test_labels_that_are_no_integers_are_refused(tmp_path: Path) -> None:
    for wrong in ([0.0, 1.7, 1.0], torch.tensor([0.0, 1.0, 1.0]), ["0", "1", "1"]):
        with pytest.raises(DataError, match="labels are integers"):
            write_store(tmp_path / "s", SPEC, latents(3), labels=wrong, overwrite=True)
    store = write_store(tmp_path / "s", SPEC, latents(3), labels=torch.tensor([0, 1, 1]), overwrite=True)
    assert store.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"names": ["a"] * 4}, "there are 5 mean, 4 names"),
        ({"captions": ["a"] * 6}, "there are 5 mean, 6 captions"),
        ({"labels": list(range(7)), "std": torch.rand(8, *SPEC.shape)}, "there are 5 mean, 8 std, 7 labels"),
        ({"mean": torch.zeros(0, *SPEC.shape)}, "at least one sample"),
        ({"mean": np.zeros((5, *SPEC.shape), np.float32)}, "mean is a ndarray; give a tensor"),
        ({"std": -torch.ones(5, *SPEC.shape)}, "negative standard deviations"),
        ({"labels": [0, 1, 2, 0, 1], "classes": ["a", "b"]}, "label 2 is not one of the 2 classes"),
        ({"labels": [0, 1, -2, 0, 1]}, "label -2 is not an index >= 0"),
        ({"labels": [2**70] * 5}, "that int64 holds"),
        ({"classes": ["a", "b"]}, "there are no labels"),
        ({"captions": [["a", "b"]] * 5}, "captions are texts"),
        ({"names": [None] * 5}, "names are texts"),
        ({"shard_size": -1}, "shard_size: Input should be greater"),
        ({"shard_size": 0}, "shard_size: Input should be greater"),
        ({"statistics": "encoder"}, 'statistics are "data" or "spec", not \'encoder\''),
        ({"dtype": "float64", "shard_size": None}, "stored as float16, bfloat16, float32, not as float64"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_one_line(tmp_path: Path, given: dict, complaint: str) -> None:
    with pytest.raises(FAEError, match=complaint) as caught:
        write_store(tmp_path / "s", SPEC, **{"mean": latents(5), "shard_size": 2, **given})
    assert "\n" not in str(caught.value) and not (tmp_path / "s" / "index.json").exists()


def test_a_refused_batch_leaves_nothing_in_its_shard(tmp_path: Path) -> None:
    plan = Plan(total=4, shard_size=4, dtype="float32", posterior="mean", labels=True)
    writer = LatentStoreWriter(tmp_path / "s", SPEC, plan)
    shard, mean = writer.shard(0), latents(4)
    wrong = ({"names": ["a"]}, {"names": ["a", "b", "c"]}, {"labels": [0]}, {"labels": [0, 0.5]}, {"labels": [0, -2]})
    for places in ([0, 1], [2, 3]):
        whole = {"labels": np.array(places), "names": [f"{place}.png" for place in places]}
        for change in wrong:
            with pytest.raises(DataError):
                shard.add(places, {"mean": mean[places]}, **{**whole, **change})
        shard.add(places, {"mean": mean[places]}, **whole)
    shard.commit()
    samples = list(writer.finish("spec"))
    assert [(s.name, s.label) for s in samples] == [(f"{i}.png", i) for i in range(4)]
    assert torch.equal(torch.stack([s.z for s in samples]), mean)


def test_every_sample_has_a_slot_of_its_own(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", SPEC, latents(3), std=torch.ones(3, *SPEC.shape))
    with pytest.raises(DataError, match=r"3 samples .* for 1 random slots"):
        store.read([0, 1, 2], SlotRandom(0, [0]))


def test_a_store_without_labels_says_so(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", SPEC, latents(2))
    assert store.labels is None
    assert store.read([0])[1] is None
    assert store.classes is None


def test_posterior_samples_are_drawn_by_slot_and_have_the_stored_moments(tmp_path: Path) -> None:
    mean, std = latents(4), torch.full((4, *SPEC.shape), 0.5)
    store = write_store(tmp_path / "s", SPEC, mean, std=std, shard_size=3)
    assert torch.equal(store.read(range(4))[0], mean)
    drawn = store.read(range(4), SlotRandom(1, range(4)))[0]
    one_by_one = torch.cat([store.read([i], SlotRandom(1, [i]))[0] for i in range(4)])
    assert torch.equal(drawn, one_by_one)
    many = torch.stack([store.read([2], SlotRandom(1, [i]))[0][0] for i in range(400)])
    # 400 draws: the standard errors are .025 of the mean and .018 of the standard deviation.
    torch.testing.assert_close(many.mean(0), mean[2], atol=0.12, rtol=0)
    torch.testing.assert_close(many.std(0), std[2], atol=0.08, rtol=0)
    assert torch.equal(LatentStore(tmp_path / "s", sample=False).read([2], SlotRandom(1, [2]))[0][0], mean[2])


def test_flips_are_read_for_about_half_of_the_slots_and_never_without_random(tmp_path: Path) -> None:
    mean = latents(6)
    plan = Plan(total=6, shard_size=4, dtype="float32", posterior="mean", flips=True)
    writer = LatentStoreWriter(tmp_path / "s", SPEC, plan)
    for number in range(2):
        shard = writer.shard(number)
        rows = slice(shard.range.start, shard.range.stop)
        shard.add(list(shard.range), {"mean": mean[rows], "mean_flip": -mean[rows]})
        shard.commit()
    store = writer.finish("spec")
    assert torch.equal(store.read(range(6))[0], mean)
    signs = torch.stack([(store.read([1], SlotRandom(0, [i]))[0][0] / mean[1]).mean() for i in range(60)])
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert 15 <= int((signs < 0).sum()) <= 45
    assert torch.equal(store.read_posterior([3], flip=True)[0], -mean[[3]])


def test_statistics_are_those_of_the_data_and_of_posterior_samples(tmp_path: Path) -> None:
    mean, std = latents(9), 0.5 + torch.rand(9, *SPEC.shape, generator=torch.Generator().manual_seed(1))
    values = mean.double().movedim(1, 0).flatten(1)
    store = write_store(tmp_path / "a", SPEC, mean, shard_size=4, statistics="data")
    np.testing.assert_allclose(store.spec.mean, values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(store.spec.std, values.std(1, correction=0), rtol=1e-12)
    z, _ = store.read(range(9))
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    kept = write_store(tmp_path / "b", SPEC, mean, std=std, statistics="data")
    variance = values.var(1, correction=0) + std.double().square().mean((0, 2, 3))
    np.testing.assert_allclose(kept.spec.std, variance.sqrt(), rtol=1e-12)


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_files_do_not_depend_on_batch_size_or_order_of_shards(tmp_path: Path, batch: int) -> None:
    mean, plan = latents(23), Plan(total=23, shard_size=5, dtype="float16", posterior="mean")
    reference = LatentStoreWriter(tmp_path / "reference", SPEC, plan)
    for number in range(plan.shards):
        write_shard(reference, number, mean, batch=5)
    reference.finish()
    other = LatentStoreWriter(tmp_path / "other", SPEC, plan)
    for rank in (2, 0, 1):
        mine = pickle.loads(pickle.dumps(other))  # noqa: S301 - as a spawned process gets it
        for number in mine.pending(rank, 3):
            write_shard(mine, number, mean, batch)
    other.finish()
    assert contents(tmp_path / "other") == contents(tmp_path / "reference")


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
from test_latent_store import SPEC, latents, write_shard
from fae_core.latent_store import LatentStoreWriter, Plan
import fae_core.latent_store.shard_writer as module

plan = Plan(total=23, shard_size=5, dtype="float16", posterior="mean")
writer = LatentStoreWriter({folder!r}, SPEC, plan, resume=True)
written = 0
original = module.write_atomic
def dying(path, data):
    global written
    if str(path).endswith(".safetensors"):
        written += 1
        if written > 2:
            Path(path).with_name("." + Path(path).name + ".1.tmp").write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
    original(path, data)
module.write_atomic = dying
for number in writer.pending():
    write_shard(writer, number, latents(23), batch=2)
"""


def test_after_kill_9_nothing_is_redone_or_duplicated_and_the_bytes_are_the_same(tmp_path: Path) -> None:
    plan, mean = Plan(total=23, shard_size=5, dtype="float16", posterior="mean"), latents(23)
    whole = LatentStoreWriter(tmp_path / "whole", SPEC, plan)
    for number in whole.pending():
        write_shard(whole, number, mean, batch=4)
    whole.finish()
    folder = tmp_path / "killed"
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder))
    died = subprocess.run([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert died.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match="not finished"):
        LatentStore(folder)
    done = {path: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    assert len(done) == 2
    resumed = LatentStoreWriter(folder, SPEC, plan, resume=True)
    assert resumed.pending() == [2, 3, 4]
    for number in resumed.pending():
        write_shard(resumed, number, mean, batch=3)
    store = resumed.finish()
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert [store[i].source for i in range(23)] == list(range(23))
    assert contents(folder) == contents(tmp_path / "whole")


def test_skipped_samples_leave_no_gap_and_are_named(tmp_path: Path) -> None:
    mean = latents(6)
    writer = LatentStoreWriter(tmp_path / "s", SPEC, Plan(total=6, shard_size=2, posterior="mean", dtype="float32"))
    for number, kept in ((0, [0]), (1, []), (2, [4, 5])):
        shard = writer.shard(number)
        if kept:
            shard.add(kept, {"mean": mean[kept]})
        for place in set(shard.range) - set(kept):
            shard.skip(place, f"image {place}\ncannot be read")
        shard.commit()
    store = writer.finish("spec")
    assert len(store) == 3
    assert torch.equal(store.read([0, 1, 2])[0], mean[[0, 4, 5]])
    assert writer.skipped() == [(place, f"image {place} cannot be read") for place in (1, 2, 3)]
    store.verify()


def test_a_store_without_a_single_sample_is_an_error(tmp_path: Path) -> None:
    writer = LatentStoreWriter(tmp_path / "s", SPEC, Plan(total=1, shard_size=2, posterior="mean"))
    shard = writer.shard(0)
    shard.skip(0, "x.png is truncated")
    shard.commit()
    with pytest.raises(DataError, match=r"none of the 1 samples could be read; x\.png is truncated"):
        writer.finish()


def test_a_shard_is_written_whole_in_order_or_not_at_all(tmp_path: Path) -> None:
    writer = LatentStoreWriter(tmp_path / "s", SPEC, Plan(total=4, shard_size=4, posterior="mean"))
    shard = writer.shard(0)
    shard.add([0, 1], {"mean": latents(2)})
    with pytest.raises(DataError, match="ascending"):
        shard.add([1], {"mean": latents(1)})
    with pytest.raises(DataError, match="ascending"):
        shard.add([4], {"mean": latents(1)})
    with pytest.raises(DataError, match="2 of 4"):
        shard.commit()
    with pytest.raises(DataError, match="lacks 1 of 1 shards"):
        writer.finish()


@pytest.mark.parametrize(
    ("value", "message"), [(1e6, "overflow float16"), (float("nan"), "not finite"), (float("inf"), "not finite")]
)
def test_values_that_the_dtype_cannot_hold_are_refused(tmp_path: Path, value: float, message: str) -> None:
    mean = latents(3)
    mean[1, 0, 0, 0] = value
    with pytest.raises(DataError, match=message):
        write_store(tmp_path / "s", SPEC, mean, dtype="float16")


def test_truncation_and_bit_flips_are_found(tmp_path: Path) -> None:
    write_store(tmp_path / "s", SPEC, latents(8), labels=list(range(8)), shard_size=4).verify()
    path = tmp_path / "s" / "shard-000001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"shard-000001\.safetensors is truncated"):
        LatentStore(tmp_path / "s").read([7])
    for place in (0, 20, len(whole) - 200):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged") as caught:
            LatentStore(tmp_path / "s").verify()
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        LatentStore(tmp_path / "s").read([7])
    path.write_bytes(whole)
    labels = tmp_path / "s" / "labels.npy"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x07")
    with pytest.raises(DataError, match=r"labels\.npy is damaged"):
        LatentStore(tmp_path / "s").verify()


def damage_shard(folder: Path) -> None:
    path = folder / "shard-000001.safetensors"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def swap_shards(folder: Path) -> None:
    one, other = (folder / f"shard-00000{i}.safetensors" for i in (0, 1))
    assert one.stat().st_size == other.stat().st_size
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


def edit_json(name: str, key: str, value: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        stored = json.loads((folder / name).read_text())
        owner = stored["plan"] if key in stored.get("plan", {}) else stored
        owner[key] = value
        (folder / name).write_text(json.dumps(stored))

    return edit


def swap_labels(folder: Path) -> None:
    np.save(folder / "labels.npy", np.load(folder / "labels.npy")[::-1])


DAMAGES = {
    "a flipped bit of a shard": damage_shard,
    "two shards of one size in each other's place": swap_shards,
    "labels in another order": swap_labels,
    "another std": edit_json("latent_spec.json", "std", [2.0, 1.0, 1.0]),
    "another fingerprint": edit_json("latent_spec.json", "fingerprint", "abd"),
    "classes in another order": edit_json("index.json", "classes", ["b", "a", "c", "d"]),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_whatever_was_changed_in_a_store_is_found_by_whoever_reads_it_first(tmp_path: Path, kind: str) -> None:
    write_store(tmp_path / "s", SPEC, latents(8), labels=[0, 1, 2, 3] * 2, classes=["a", "b", "c", "d"], shard_size=4)
    DAMAGES[kind](tmp_path / "s")
    with pytest.raises(FAEError, match="damaged") as caught:
        LatentStore(tmp_path / "s").read([0, 7])
    assert "\n" not in str(caught.value)


def test_shards_are_verified_once_and_not_where_that_is_off(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", SPEC, latents(8), shard_size=4)
    store.read([0])
    damage_shard(tmp_path / "s")  # the second shard, which nobody has read
    store.read([1])
    with pytest.raises(DataError, match=r"shard-000001\.safetensors is damaged"):
        store.read([1, 7])
    with pytest.raises(DataError, match=r"shard-000001\.safetensors is damaged"):
        pickle.loads(pickle.dumps(store)).read([7])  # noqa: S301 (its own)
    LatentStore(tmp_path / "s", verify=False).read([7])


def test_a_store_is_known_by_what_it_holds_and_not_by_where_it_lies(tmp_path: Path) -> None:
    def identity(name: str, spec: LatentSpec = SPEC, seed: int = 0, **more: object) -> str:
        return write_store(tmp_path / name, spec, latents(8, seed=seed), **more).identity

    labels = [i % 2 for i in range(8)]
    others = [
        identity("b", seed=1),
        identity("c", spec=SPEC.with_statistics([1.0] * 3, [1.0] * 3)),
        identity("d", labels=labels, classes=["x", "y"]),
        identity("e", labels=labels, classes=["y", "x"]),
        identity("f", labels=labels[::-1], classes=["x", "y"]),
    ]
    assert identity("a") == identity("elsewhere")
    assert len({identity("again"), *others}) == 6


@pytest.mark.parametrize(
    "header",
    [
        {"mean": {"dtype": "F32", "shape": [4, 3, 2, 4], "data_offsets": [0, 10**9]}},
        {"mean": {"dtype": "F32", "shape": [4, 3, 2, -4], "data_offsets": [0, 8]}},
        {"mean": {"dtype": "F32", "shape": [2**60, 2**60], "data_offsets": [0, 8]}},
        {"mean": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}},
        {"mean": [1, 2]},
        [1],
    ],
)
def test_a_hostile_header_is_refused(tmp_path: Path, header: object) -> None:
    write_store(tmp_path / "s", SPEC, latents(4))
    path = tmp_path / "s" / "shard-000000.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes((len(text).to_bytes(8, "little") + text).ljust(path.stat().st_size, b"\0"))
    with pytest.raises(DataError, match="is not a shard"):
        LatentStore(tmp_path / "s").read([0])


def test_another_latent_space_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "s", SPEC, latents(2))
    other = LatentSpec(3, 2, 4, 32, "toy/backbone", fingerprint="other")
    with pytest.raises(LatentSpecMismatch, match="fingerprint"):
        LatentStore(tmp_path / "s", spec=other)
    with pytest.raises(LatentSpecMismatch, match="fingerprint"):
        LatentStoreWriter(tmp_path / "s", other, LatentStore(tmp_path / "s").plan, resume=True)


def test_an_older_folder_needs_a_decision_and_strangers_are_never_deleted(tmp_path: Path) -> None:
    plan = Plan(total=2, shard_size=2, posterior="mean", dtype="float32")
    write_store(tmp_path / "s", SPEC, latents(2))
    with pytest.raises(OutputExists, match="--resume"):
        LatentStoreWriter(tmp_path / "s", SPEC, plan)
    assert LatentStoreWriter(tmp_path / "s", SPEC, LatentStore(tmp_path / "s").plan, resume=True).pending() == []
    with pytest.raises(DataError, match="begun with shard_size"):
        LatentStoreWriter(tmp_path / "s", SPEC, plan.model_copy(update={"shard_size": 1}), resume=True)
    assert LatentStoreWriter(tmp_path / "s", SPEC, plan, overwrite=True).pending() == [0]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"meow")
    for options in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(FAEError, match="no"):
            LatentStoreWriter(tmp_path / "photos", SPEC, plan, **options)
    assert (tmp_path / "photos" / "cat.png").is_file()


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a latent store"):
        LatentStore(tmp_path)
    store = write_store(tmp_path / "s", SPEC, latents(3))
    with pytest.raises(DataError, match="does not exist"):
        store.read([3])
    index = tmp_path / "s" / "index.json"
    index.write_text(index.read_text().replace('"count":3', '"count":4'))
    with pytest.raises(DataError, match="do not add up"):
        LatentStore(tmp_path / "s")


def test_processes_share_an_epoch_without_gap_or_repeat(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", SPEC, latents(23), labels=list(range(23)), shard_size=5)
    for seed in (None, 3):
        seen = [labels for rank in range(3) for _, labels in store.batches(4, seed=seed, rank=rank, world=3)]
        assert sorted(torch.cat(seen).tolist()) == list(range(23))
    first = torch.cat([labels for _, labels in store.batches(4, seed=3, epoch=0)])
    second = torch.cat([labels for _, labels in store.batches(4, seed=3, epoch=1)])
    assert first.tolist() != second.tolist() != list(range(23))


def test_a_share_that_another_process_reads_and_empty_batches_are_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", SPEC, latents(3))
    for rank, world in ((2, 2), (-1, 2), (0, 0)):
        for samples in (store.batches(2, rank=rank, world=world), store.stream(rank=rank, world=world)):
            with pytest.raises(DataError, match="rank counts from 0 to world - 1"):
                list(samples)
    for size in (0, -1):
        with pytest.raises(DataError, match="batch_size must be at least 1"):
            list(store.batches(size))


def test_a_store_travels_to_another_process(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", SPEC, latents(5), shard_size=2)
    store.read([0, 4])
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert torch.equal(copy.read(slice(1, 4))[0], store.read([1, 2, 3])[0])


def test_channel_sums_match_a_hand_computation() -> None:
    mean = torch.tensor([[[[1.0, 3.0]]], [[[5.0, 7.0]]]])
    sums = ChannelSums.of(mean, torch.ones_like(mean))
    assert (sums.count, sums.total.tolist(), sums.squares.tolist()) == (4, [16.0], [1 + 9 + 25 + 49 + 4.0])
    assert sums.mean_std() == ((4.0,), ((88 / 4 - 16) ** 0.5,))


def test_a_hundred_million_samples_are_addressed_without_reading_them(tmp_path: Path) -> None:
    """The index of 50,000 shards, of which only the last lies on disk."""
    spec = LatentSpec(1, 1, 1, 8, "toy")
    write_store(tmp_path / "small", spec, torch.arange(2000.0).view(-1, 1, 1, 1), shard_size=2000)
    index = json.loads((tmp_path / "small" / "index.json").read_text())
    shards, (entry,) = 50_000, index["shards"]
    index["shards"] = [entry] * shards
    index["count"] = index["plan"]["total"] = 2000 * shards
    del index["checksum"]  # of what the index said before
    (tmp_path / "small" / "index.json").write_text(json.dumps(index))
    (tmp_path / "small" / "shard-000000.safetensors").rename(tmp_path / "small" / f"shard-{shards - 1:06d}.safetensors")
    store = LatentStore(tmp_path / "small")
    assert len(store) == 10**8
    z, _ = store.read([10**8 - 1, 10**8 - 2000])
    torch.testing.assert_close(z.flatten(), torch.tensor([1999.0, 0.0]))
    with pytest.raises(DataError, match="shard-000000"):
        store.read([5])
    with pytest.raises(DataError, match="does not exist"):
        store.read([10**8])
