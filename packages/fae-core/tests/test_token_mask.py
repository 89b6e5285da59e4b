"""Masks of text: the kinds in use mean the same, and what could mean two things is refused."""

from __future__ import annotations

import pytest
import torch

from fae_core.errors import FAEError
from fae_core.layers.token_mask import token_mask, without_padding

WANTED = torch.tensor([[True, True, False], [True, False, False]])
INF = float("inf")


@pytest.mark.parametrize(
    "mask",
    [
        WANTED,
        WANTED.long(),
        WANTED.to(torch.uint8),
        WANTED.float(),
        WANTED.bfloat16(),
        torch.zeros(2, 3).masked_fill(~WANTED, -INF),
        torch.zeros(2, 3).masked_fill(~WANTED, torch.finfo(torch.float32).min),
        torch.zeros(2, 3, dtype=torch.float16).masked_fill(~WANTED, -1e4),
        torch.zeros(2, 3).masked_fill(~WANTED, -1e9),
    ],
    ids=["bool", "int", "uint8", "float", "bf16", "additive", "lowest", "half", "large"],
)
def test_every_kind_of_mask_in_use_means_the_same(mask: torch.Tensor) -> None:
    found = token_mask(mask, (2, 3))
    assert found.dtype == torch.bool and torch.equal(found, WANTED)


@pytest.mark.parametrize(
    "mask",
    [
        torch.zeros(2, 3),
        torch.full((2, 3), 0.5),
        torch.tensor([[1.0, 0.0, -INF], [1.0, 0.0, 0.0]]),
        torch.tensor([[0.0, 0.0, INF], [0.0, 0.0, 0.0]]),
        torch.tensor([[1.0, 0.0, float("nan")], [1.0, 0.0, 0.0]]),
        torch.tensor([[1, 1, 2], [1, 0, 0]]),
        torch.tensor([[0, 0, -1], [0, 0, 0]]),
        torch.tensor([[0.0, -1.0, 0.0], [0.0, 0.0, 0.0]]),
        torch.ones(2, 3, dtype=torch.complex64),
        WANTED.T,
        WANTED[0],
        WANTED[:1],
        WANTED[:, None, None],
        WANTED[..., None],
        torch.ones(2, 4, dtype=torch.bool),
        [[1, 1, 0], [1, 0, 0]],
    ],
    ids=[
        "zeros",
        "halves",
        "both",
        "plus",
        "nan",
        "two",
        "minus",
        "bias",
        "complex",
        "transposed",
        "row",
        "one",
        "heads",
        "width",
        "long",
        "list",
    ],
)
def test_other_masks_are_refused_in_one_line(mask: object) -> None:
    with pytest.raises(FAEError) as raised:
        token_mask(mask, (2, 3))
    assert "\n" not in str(raised.value)


def test_what_stands_at_hidden_places_is_gone_from_values_and_gradients() -> None:
    tokens = torch.ones(2, 3, 4).masked_fill(~WANTED[..., None], float("nan")).requires_grad_(True)
    shown = without_padding(tokens, WANTED)
    shown.square().sum().backward()
    assert torch.equal(shown, WANTED[..., None].float().expand(2, 3, 4))
    assert torch.equal(tokens.grad, 2 * WANTED[..., None].float().expand(2, 3, 4))
