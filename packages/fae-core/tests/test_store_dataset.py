"""Claims about a latent store in torch's DataLoader: by index or as a stream, every sample comes once."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from fae_core import LatentSpec, LatentStore
from fae_core.errors import DataError
from fae_core.latent_store import write_store

SPEC = LatentSpec(3, 2, 4, 32, "toy", mean=(0.5, -1.0, 2.0), std=(2.0, 0.5, 3.0))


@pytest.fixture
def store(tmp_path: Path) -> LatentStore:
    z = torch.randn(23, *SPEC.shape, generator=torch.Generator().manual_seed(0))
    return write_store(tmp_path / "s", SPEC, z, labels=[i % 4 for i in range(23)], dtype="float32", shard_size=5)


@pytest.fixture
def bare(tmp_path: Path) -> LatentStore:
    return write_store(tmp_path / "bare", SPEC, torch.zeros(3, *SPEC.shape))


@pytest.fixture
def large(tmp_path: Path) -> LatentStore:
    return write_store(tmp_path / "large", SPEC, torch.randn(1100, *SPEC.shape), shard_size=300)


def test_samples_are_joined_to_the_fields_that_the_data_have(store: LatentStore, bare: LatentStore) -> None:
    batch = default_collate([store[3], store[-1]])
    z, labels = store.read([3, 22])
    assert type(batch) is dict and set(batch) == {"z", "label", "name", "source"}
    assert torch.equal(batch["z"], z) and torch.equal(batch["label"], labels) and batch["source"].tolist() == [3, 22]
    assert set(default_collate([bare[0], bare[1]])) == {"z", "name", "source"}
    sample = bare[0]
    assert dict(**sample).keys() == {"z", "name", "source"} and sample.label is None and len(sample) == 3
    with pytest.raises(KeyError):
        sample["label"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_map_style_data_set(store: LatentStore, workers: int) -> None:
    assert isinstance(store, Dataset) and not isinstance(store, IterableDataset)
    random = torch.Generator().manual_seed(1)
    batches = list(DataLoader(store, batch_size=4, shuffle=True, num_workers=workers, generator=random))
    places = torch.cat([batch["source"] for batch in batches])
    assert places.tolist() != list(range(23)) and sorted(places.tolist()) == list(range(23))
    z, labels = store.read(places)
    assert torch.equal(torch.cat([batch["z"] for batch in batches]), z)
    assert torch.equal(torch.cat([batch["label"] for batch in batches]), labels)


def test_samples_in_order(store: LatentStore) -> None:
    samples = list(store)
    assert [sample.source for sample in samples] == list(range(23))
    assert torch.equal(torch.stack([sample.z for sample in samples]), store.read(range(23))[0])
    assert [sample.source for sample in itertools.islice(store, 2)] == [0, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_data_set(large: LatentStore, workers: int) -> None:
    assert isinstance(large.stream(), IterableDataset)

    def places(**options: int) -> list[int]:
        loader = DataLoader(large.stream(**options), batch_size=100, num_workers=workers)
        return [place for batch in loader for place in batch["source"].tolist()]

    assert sorted(places()) == list(range(1100))
    shuffled = places(seed=1)
    assert sorted(shuffled) == list(range(1100)) and shuffled == places(seed=1) != places(seed=1, epoch=1)
    parts = [places(seed=1, rank=rank, world=3) for rank in range(3)]
    assert sorted(itertools.chain(*parts)) == list(range(1100)) and all(parts)


def test_a_stream_has_the_order_of_batches(large: LatentStore) -> None:
    streamed = torch.stack([sample.z for sample in large.stream(seed=3, epoch=2)])
    assert torch.equal(streamed, torch.cat([z for z, _ in large.batches(256, seed=3, epoch=2)]))


def test_a_mask_or_fractions_are_no_indices(store: LatentStore) -> None:
    """As int64 a mask was read as sample 0 and sample 1, over and over."""
    mask = store.labels == 3
    for wrong in (mask, torch.from_numpy(mask), mask.tolist(), [0.5, 1.5], ["1"]):
        with pytest.raises(DataError, match="are integers, not"):
            store.read(wrong)
    assert store.read(mask.nonzero()[0])[1].tolist() == [3] * 5
    assert len(store.read([])[0]) == len(store.read(torch.tensor([], dtype=torch.long))[0]) == 0
