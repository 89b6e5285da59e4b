"""The sampling engine's products and cache, each compared with its definition."""

from __future__ import annotations

import pytest
import torch

from fae_core.errors import FAEError
from fae_flow.sampling.cache import BlockCache
from fae_flow.sampling.linear import PackedLinear, PlainLinear, choose_linear


@pytest.mark.parametrize("gelu", [None, "none", "tanh"])
def test_packed_products_equal_plain_ones(gelu) -> None:
    try:
        choose_linear(True, torch.device("cpu"), torch.float32)
    except FAEError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    linear = torch.nn.Linear(40, 24)
    packed, plain = (kind(linear, torch.float32) for kind in (PackedLinear, PlainLinear))
    for rows in (1, 3, 8, 65):
        x, residual = torch.randn(rows, 40), torch.randn(rows, 24)
        torch.testing.assert_close(packed(x, gelu=gelu), plain(x, gelu=gelu), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(packed(x, residual=residual), plain(x, residual=residual), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [PlainLinear, PackedLinear])
@pytest.mark.parametrize("bias", [True, False])
def test_products_equal_the_layer_that_they_come_from(kind, bias) -> None:
    if kind is PackedLinear:
        try:
            choose_linear(True, torch.device("cpu"), torch.float32)
        except FAEError as error:
            pytest.skip(str(error))
    torch.manual_seed(0)
    # 1024 outputs are one page of fp32: the width at which plain weights are kept apart.
    for inputs, outputs in ((40, 24), (16, 1024)):
        linear = torch.nn.Linear(inputs, outputs, bias=bias)
        layer, before = kind(linear, torch.float32), linear.weight.detach().clone()
        for rows in (1, 4, 33):
            x, residual = torch.randn(rows, inputs), torch.randn(rows, outputs)
            expected = linear(x).detach()
            out = torch.full((rows, outputs), torch.nan)
            layer(x, out=out)
            for result, wanted in (
                (out, expected),
                (layer(x), expected),
                (layer(x, gelu="none"), torch.nn.functional.gelu(expected)),
                (layer(x, residual=residual.clone()), residual + expected),
            ):
                torch.testing.assert_close(result, wanted, atol=1e-5, rtol=1e-5)
        assert torch.equal(linear.weight, before)


def test_what_is_chosen_is_what_was_asked_for() -> None:
    cpu = torch.device("cpu")
    assert choose_linear(False, cpu, torch.float32) is PlainLinear
    assert choose_linear(None, torch.device("cuda"), torch.float32) is PlainLinear
    assert choose_linear(None, cpu, torch.float64) is PlainLinear
    with pytest.raises(FAEError, match="not on the CPU"):
        choose_linear(True, torch.device("cuda"), torch.float32)
    with pytest.raises(FAEError, match="float64"):
        choose_linear(True, cpu, torch.float64)


def test_every_way_into_the_cache_stores_and_shows_the_same() -> None:
    random = torch.Generator().manual_seed(0)
    layers, rows, slots, heads, dim = 2, 3, 7, 2, 4
    new = torch.randn(layers, rows, 2 * heads, 2, dim, generator=random)
    every, start = torch.arange(rows), 3
    results = []
    for way in ("stretch", "indexed", "rows"):
        cache = BlockCache(layers, rows, slots, heads, dim, torch.device("cpu"), torch.float32)
        cache.store.copy_(torch.arange(cache.store.numel()).view_as(cache.store))
        opened = {
            "stretch": lambda cache=cache: cache.stretch(start, 2),
            "indexed": lambda cache=cache: cache.indexed(torch.tensor([start, start + 1])),
            "rows": lambda cache=cache: cache.rows(start, 2, every),
        }[way]()
        seen = [view.update(values) for view, values in zip(opened, new, strict=True)]
        assert torch.equal(cache.store[:, :, :, start : start + 2], new)
        results.append([(keys[:, :, : start + 2], values[:, :, : start + 2]) for keys, values in seen])
        assert all(keys.shape[1] == values.shape[1] == heads for keys, values in seen)
    for other in results[1:]:
        for pair, wanted in zip(other, results[0], strict=True):
            assert all(torch.equal(*both) for both in zip(pair, wanted, strict=True))
