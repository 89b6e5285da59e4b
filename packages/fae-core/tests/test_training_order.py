"""The order of samples is a permutation per epoch, a pure function of seed and step."""

from __future__ import annotations

import numpy as np
import pytest

from fae_core.random.permutation import permute
from fae_core.training.order import SampleOrder


@pytest.mark.parametrize("samples", [1, 2, 3, 7, 64, 100, 1000, 4097])
def test_permute_is_a_permutation(samples: int) -> None:
    out = permute(np.arange(samples, dtype=np.uint64), samples, key=5)
    assert sorted(out.tolist()) == list(range(samples))


def test_every_sample_is_seen_once_per_epoch_whatever_the_batch_size() -> None:
    for batch_size in (1, 4, 7, 30):
        stream = [i for step in range(3 * 30 // batch_size + 1) for i in SampleOrder(3, 30).batch(step, batch_size)]
        for epoch in range(3):
            assert sorted(stream[epoch * 30 : (epoch + 1) * 30]) == list(range(30))


def test_the_stream_does_not_depend_on_the_batch_size() -> None:
    by_six = [i for step in range(10) for i in SampleOrder(1, 17).batch(step, 6)]
    by_ten = [i for step in range(6) for i in SampleOrder(1, 17).batch(step, 10)]
    assert by_six == by_ten


def test_epochs_and_seeds_differ_and_the_order_is_mixed() -> None:
    first, second = SampleOrder(0, 500).batch(0, 500), SampleOrder(0, 500).batch(1, 500)
    other = SampleOrder(1, 500).batch(0, 500)
    assert first != second != other and first != other
    # Neighbours in a random order of 500 lie 167 apart on average; a sorted order would give 1.
    assert 140 < np.abs(np.diff(first)).mean() < 195


def test_a_hundred_million_samples_need_no_table() -> None:
    indices = SampleOrder(0, 10**8).batch(12345, 256)
    assert len(set(indices)) == 256 and min(indices) >= 0 and max(indices) < 10**8


BLOCKS = [5, 1, 8, 3, 3, 7, 2, 11]  # 40 samples


@pytest.mark.parametrize("window", [1, 10, 1000])
def test_blocks_are_visited_once_per_epoch_and_stay_together(window: int) -> None:
    order = SampleOrder(4, 40, BLOCKS, window)
    starts = np.cumsum([0, *BLOCKS])
    stream = [i for step in range(20) for i in order.batch(step, 6)]
    for epoch in range(3):
        seen = stream[epoch * 40 : (epoch + 1) * 40]
        assert sorted(seen) == list(range(40))
        open_blocks = [set(np.searchsorted(starts, seen[i : i + 10], side="right")) for i in range(0, 40, 10)]
        if window == 1:  # two blocks at a time: ten samples in a row touch few of the eight
            assert max(map(len, open_blocks)) <= 6
    by_five = [i for step in range(24) for i in order.batch(step, 5)]
    assert by_five == stream and stream[:40] != stream[40:80]


def test_a_window_mixes_its_blocks() -> None:
    order = SampleOrder(0, 2000, [100] * 20, window=1000)
    blocks_of_first_half = {i // 100 for i in order.batch(0, 1000)}
    assert len(blocks_of_first_half) == 10
    assert len({i // 100 for i in order.batch(0, 100)}) == 10


def test_blocks_must_cover_the_samples() -> None:
    with pytest.raises(ValueError, match="39 samples"):
        SampleOrder(0, 40, [39])


def test_a_hundred_thousand_blocks_are_ordered_without_a_table_of_samples() -> None:
    indices = SampleOrder(0, 10**9, [10**4] * 10**5).batch(777, 512)
    assert len(set(indices)) == 512 and len({i // 10**4 for i in indices}) <= 2
