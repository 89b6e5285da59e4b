"""Which of several captions is read: by hand-computed shares, the same for any batch, process and interruption."""

from __future__ import annotations

import pytest
import torch

from fae_core.errors import DataError, InvalidSettings
from fae_core.images.caption_choice import CaptionChoice
from fae_core.images.captions import SEPARATOR
from fae_core.random import counter, derive_seed

FEW = SEPARATOR.join(["a", "b"])
MANY = SEPARATOR.join(["a", "b", "c", "d"])


def drawn(choice: CaptionChoice, text: str, count: int, epoch: int = 0, seed: int = 7) -> list[str]:
    return choice.draw([text] * count, range(count), [epoch] * count, seed)


def test_shares_are_the_weights() -> None:
    """Of 40,000 draws with p = 1/4, 10,000 are expected with a deviation of sqrt(40000 * 1/4 * 3/4) = 87."""
    texts = drawn(CaptionChoice([1, 3]), FEW, 40_000)
    assert abs(texts.count("a") - 10_000) < 5 * 87
    assert abs(texts.count("b") - 30_000) < 5 * 87
    equal = drawn(CaptionChoice(), MANY, 40_000)
    assert all(abs(equal.count(caption) - 10_000) < 5 * 87 for caption in "abcd")


def test_the_choice_is_where_the_sample_s_own_number_lies_among_the_weights() -> None:
    numbers = counter.uniform(derive_seed(7, "caption", 3), torch.arange(200), 1)[:, 0].tolist()
    wanted = ["a" if number * 10 < 2 else "b" if number * 10 < 2 + 5 else "d" for number in numbers]
    assert drawn(CaptionChoice([2, 5, 0, 3]), MANY, 200, epoch=3) == wanted
    assert set(wanted) == {"a", "b", "d"}


def test_a_weight_of_zero_is_never_drawn_and_a_single_one_always() -> None:
    assert set(drawn(CaptionChoice([0, 1e-300]), FEW, 500)) == {"b"}
    assert set(drawn(CaptionChoice([5, 0]), FEW, 500)) == {"a"}
    assert drawn(CaptionChoice(), "only", 3) == drawn(CaptionChoice([2]), "only", 3) == ["only"] * 3


def test_the_choice_depends_on_seed_sample_and_epoch_alone() -> None:
    choice = CaptionChoice([1, 1, 1, 1])
    whole = choice.draw([MANY] * 60, list(range(30)) * 2, [0] * 30 + [1] * 30, 7)
    parts = [choice.draw([MANY], [row % 30], [row // 30], 7)[0] for row in reversed(range(60))][::-1]
    assert whole == parts
    assert whole[:30] != whole[30:]  # another epoch, another choice
    assert whole[:30] != drawn(choice, MANY, 30, seed=8)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1,-2", "at least 0, not -2"),
        ("nan,1", "finite numbers"),
        ("inf,1", "finite numbers"),
        ("0,0", "need a sum above 0"),
        ("1,two", "such as 0.3,0.7, not '1,two'"),
        ("", "such as 0.3,0.7"),
        ("1:2", "such as 0.3,0.7"),
    ],
)
def test_weights_that_give_no_probabilities_are_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(InvalidSettings, match=reason) as refused:
        CaptionChoice.parse(text)
    assert "\n" not in str(refused.value)


def test_every_sample_has_as_many_captions_as_there_are_weights() -> None:
    CaptionChoice.parse(None).require(["a", FEW, MANY], "data")
    CaptionChoice([1, 2]).require([FEW, FEW], "data")
    with pytest.raises(DataError, match=r"data: sample 1 has .* captions \(4\) than there are weights \(2\)"):
        CaptionChoice([1, 2]).require([FEW, MANY], "data")
    with pytest.raises(InvalidSettings, match="need a sum above 0"):
        CaptionChoice([])
