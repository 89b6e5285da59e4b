"""How many samples a condition is for: the same answer for every generator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fae_core.errors import FAEError
from fae_core.layers.condition_rows import is_masked_text, sample_count
from fae_core.random import SlotRandom

TEXT = torch.zeros(3, 5, 8)


@pytest.mark.parametrize(
    ("given", "count"),
    [
        (([4, 2],), 2),
        ((np.array([4, 2, 1]),), 3),
        ((torch.tensor([4]),), 1),
        (([torch.tensor(4), torch.tensor(2)],), 2),
        ((["a cat", "a dog", "a ship"],), 3),
        ((TEXT,), 3),
        (((TEXT, torch.ones(3, 5)),), 3),
        (([TEXT, torch.ones(3, 5)],), 3),
        ((None, torch.zeros(4, 1, 2, 2)), 4),
        ((None, None, SlotRandom(0, range(5))), 5),
        (([1, 2], torch.zeros(4, 1, 2, 2)), 2),
    ],
)
def test_rows_are_counted(given: tuple[Any, ...], count: int) -> None:
    assert sample_count(*given) == count


@pytest.mark.parametrize("alone", [3, torch.tensor(3), np.array(3), np.int64(3), 3.0, "a cat", torch.tensor(1.0)])
def test_one_condition_alone_is_no_batch(alone: Any) -> None:
    with pytest.raises(FAEError, match="are one per sample") as raised:
        sample_count(alone)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("none", [[], (), torch.zeros(0, dtype=torch.long), TEXT[:0], (TEXT[:0], torch.ones(0, 5))])
def test_an_empty_batch_is_nothing_to_sample(none: Any) -> None:
    with pytest.raises(FAEError, match="the batch is empty"):
        sample_count(none)
    with pytest.raises(FAEError, match="needs a condition, noise or random"):
        sample_count(None)


def test_labels_are_no_text_and_a_mask_has_rows() -> None:
    assert is_masked_text((TEXT, torch.ones(3, 5)))
    for other in (TEXT, [TEXT], [1, 2], [torch.tensor(1), torch.tensor(2)], (TEXT, None), "ab"):
        assert not is_masked_text(other)
