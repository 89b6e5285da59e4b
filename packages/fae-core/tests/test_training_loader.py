"""Batches come in order; errors come at their step; a stalled source ends in one line."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from fae_core.errors import DataError
from fae_core.training.loader import ahead


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_come_in_order_however_long_each_takes(threads: int) -> None:
    def load(step: int) -> int:
        time.sleep(0.01 * (step % 3))
        return step * step

    assert list(ahead(load, range(2, 12), threads)) == [(step, step * step) for step in range(2, 12)]


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_is_raised_at_its_step(threads: int) -> None:
    def load(step: int) -> int:
        if step == 3:
            raise DataError("shard 7 is damaged")
        return step

    seen = []
    with pytest.raises(DataError, match="shard 7"):
        for step, _ in ahead(load, range(10), threads):
            seen.append(step)
    assert seen == [0, 1, 2]


def test_a_stalled_source_is_reported_and_then_given_up(caplog: pytest.LogCaptureFixture) -> None:
    later = threading.Event()  # the source answers when it was given up, which the end waits for
    with caplog.at_level(logging.WARNING, "fae"), pytest.raises(DataError, match=r"step 2 in 0 s; .*--resume"):
        for _ in ahead(lambda step: step if step == 0 else later.wait(1), range(5), 1, stall_limit=0.3):
            pass
    assert "step 2 has waited" in caplog.text


def test_no_more_than_a_few_batches_are_loaded_ahead() -> None:
    loaded = []
    batches = ahead(lambda step: loaded.append(step), range(100), 2)
    next(batches)
    time.sleep(0.1)
    assert len(loaded) <= 4
    batches.close()
