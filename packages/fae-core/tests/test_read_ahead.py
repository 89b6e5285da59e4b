"""Reading ahead keeps the order and ends its threads; batches that do not fit come again in halves."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from fae_core.errors import FAEError
from fae_core.images.halving import HalvingBatches
from fae_core.images.read_ahead import read_ahead


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("reader-")]


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_items_come_in_order_with_what_was_read(threads: int) -> None:
    found = list(read_ahead(lambda item: item * item, range(20), threads=threads, ahead=3))
    assert found == [(item, item * item) for item in range(20)]
    assert not readers()


def test_no_more_is_read_than_was_allowed() -> None:
    begun: list[int] = []
    reading = read_ahead(lambda item: begun.append(item) or item, range(100), threads=2, ahead=4)
    assert next(reading) == (0, 0)
    reading.close()
    assert max(begun) <= 4 and not readers()


def test_an_error_is_raised_at_its_item_and_ends_the_threads() -> None:
    def read(item: int) -> int:
        if item == 2:
            raise ValueError("the third")
        return item

    reading = read_ahead(read, range(10), threads=3, ahead=5)
    assert [next(reading)[0], next(reading)[0]] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(reading)
    assert not readers()


def test_a_program_that_fails_while_threads_read_ends_by_its_own_error() -> None:
    program = """
import torch
from fae_core.images.read_ahead import read_ahead

def read(item):
    if item == 3:
        raise SystemExit(7)
    x = torch.rand(3, 600, 600)
    for _ in range(20):
        x = torch.nn.functional.interpolate(x[None], (500, 500), mode="bicubic", antialias=True)[0]
    return x

for _ in read_ahead(read, range(64), threads=8, ahead=32):
    pass
"""
    statuses = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode for _ in "ab"
    ]
    assert statuses == [7, 7]


def test_a_batch_that_does_not_fit_comes_again_in_halves_and_later_ones_are_as_small() -> None:
    sizes, done = [], []
    for batch in HalvingBatches(list(range(11)), 5):
        sizes.append(len(batch.indices))
        if len(batch.indices) > 2:
            batch.halve()
            continue
        done += batch.indices
    assert done == list(range(11)) and sizes == [5, 2, 2, 2, 2, 2, 1]


def test_one_sample_that_does_not_fit_is_an_error() -> None:
    batch = next(HalvingBatches([0], 1))
    with pytest.raises(FAEError, match="out of memory with one image"):
        batch.halve()
