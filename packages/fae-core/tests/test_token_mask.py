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


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.uint16, torch.int64])
def test_a_mask_of_integers_is_traced_and_mapped(dtype: torch.dtype) -> None:
    class Masked(torch.nn.Module):
        def forward(self, mask: torch.Tensor) -> torch.Tensor:
            return token_mask(mask, (2, 3))

    mask = WANTED.to(dtype)
    assert torch.equal(torch.export.export(Masked(), (mask,)).module()(mask), WANTED)
    assert torch.equal(torch.compile(Masked(), backend="eager", fullgraph=True)(mask), WANTED)
    rows = torch.func.vmap(lambda row: token_mask(row[None], (1, 3))[0])(mask)
    assert torch.equal(rows, WANTED)


def test_a_mask_of_floats_whose_values_cannot_be_read_could_mean_two_things() -> None:
    for mask in (WANTED.float(), torch.zeros(2, 3).masked_fill(~WANTED, -INF)):
        with pytest.raises(FAEError, match="pass booleans"):
            torch.func.vmap(lambda row: token_mask(row[None], (1, 3))[0])(mask)
        with pytest.raises(FAEError, match="pass booleans"):
            token_mask(mask.to("meta"), (2, 3))
        # A gradient alone hides no values.
        gradient = torch.func.grad(lambda x, mask: (x * token_mask(mask, (2, 3))).sum())(torch.ones(2, 3), mask)
        assert torch.equal(gradient, WANTED.float())


def test_what_stands_at_hidden_places_is_gone_from_values_and_gradients() -> None:
    tokens = torch.ones(2, 3, 4).masked_fill(~WANTED[..., None], float("nan")).requires_grad_(True)
    shown = without_padding(tokens, WANTED)
    shown.square().sum().backward()
    assert torch.equal(shown, WANTED[..., None].float().expand(2, 3, 4))
    assert torch.equal(tokens.grad, 2 * WANTED[..., None].float().expand(2, 3, 4))
