"""The order of samples is a permutation per epoch, a pure function of seed and step."""

from __future__ import annotations

import numpy as np
import pytest

from fae_core.training.order import batch_indices, permute


@pytest.mark.parametrize("samples", [1, 2, 3, 7, 64, 100, 1000, 4097])
def test_permute_is_a_permutation(samples: int) -> None:
    out = permute(np.arange(samples, dtype=np.uint64), samples, key=5)
    assert sorted(out.tolist()) == list(range(samples))


def test_every_sample_is_seen_once_per_epoch_whatever_the_batch_size() -> None:
    for batch_size in (1, 4, 7, 30):
        stream = [i for step in range(3 * 30 // batch_size + 1) for i in batch_indices(3, step, batch_size, 30)]
        for epoch in range(3):
            assert sorted(stream[epoch * 30 : (epoch + 1) * 30]) == list(range(30))


def test_the_stream_does_not_depend_on_the_batch_size() -> None:
    by_six = [i for step in range(10) for i in batch_indices(1, step, 6, 17)]
    by_ten = [i for step in range(6) for i in batch_indices(1, step, 10, 17)]
    assert by_six == by_ten


def test_epochs_and_seeds_differ_and_the_order_is_mixed() -> None:
    first, second = batch_indices(0, 0, 500, 500), batch_indices(0, 1, 500, 500)
    other = batch_indices(1, 0, 500, 500)
    assert first != second != other and first != other
    # Neighbours in a random order of 500 lie 167 apart on average; a sorted order would give 1.
    assert 140 < np.abs(np.diff(first)).mean() < 195


def test_a_hundred_million_samples_need_no_table() -> None:
    indices = batch_indices(0, 12345, 256, 10**8)
    assert len(set(indices)) == 256 and min(indices) >= 0 and max(indices) < 10**8
