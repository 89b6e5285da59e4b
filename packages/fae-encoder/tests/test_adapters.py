"""Claims about adapters: the paper's count, figure 7 by hand, and what each kind can and cannot see."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from fae_core.errors import FAEError
from fae_encoder import AdapterConfig, create_adapter

GRID = (2, 3)


def make(dim: int = 16, channels: int = 3, **fields: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_adapter(AdapterConfig(**fields), dim, channels)


def features(dim: int = 16, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 6, dim, generator=torch.Generator().manual_seed(1))


def test_the_papers_adapter_has_38_166_592_parameters() -> None:
    with torch.device("meta"):
        adapter = create_adapter(AdapterConfig(), 1536, 32)
    assert sum(p.numel() for p in adapter.parameters()) == 38_166_592
    assert (adapter.heads, adapter.head_dim) == (24, 256)


def test_single_attention_is_figure_7_written_out() -> None:
    adapter, x = make(dim=16, heads=4), features()
    q, k, v, skip = F.linear(x, adapter.qkvs.weight, adapter.qkvs.bias).split(64, dim=-1)
    attended = torch.zeros_like(skip)
    for head in range(4):
        part = slice(16 * head, 16 * (head + 1))
        scores = torch.einsum("bnd,bmd->bnm", q[..., part], k[..., part]) / math.sqrt(16)
        attended[..., part] = torch.einsum("bnm,bmd->bnd", scores.softmax(-1), v[..., part])
    expected = F.linear(F.gelu(skip + attended), adapter.out.weight, adapter.out.bias)
    mean, logvar = adapter(x, GRID)
    torch.testing.assert_close(torch.cat([mean, logvar], -1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "silu", "relu", "none"])
@pytest.mark.parametrize("norm", ["none", "layer", "rms"])
def test_open_choices_are_configurable_and_matter(activation: str, norm: str) -> None:
    mean, logvar = make(activation=activation, input_norm=norm)(2 * features() + 1, GRID)
    assert mean.shape == logvar.shape == (2, 6, 3)
    default = make()(2 * features() + 1, GRID)[0]
    assert torch.equal(mean, default) == (activation == "gelu" and norm == "none")


def test_attention_sees_a_set_unless_it_is_given_places() -> None:
    order = [3, 1, 5, 0, 2, 4]
    x = features()
    plain, turned = make(), make(rope=True)
    torch.testing.assert_close(plain(x[:, order], GRID)[0], plain(x, GRID)[0][:, order], atol=1e-5, rtol=1e-5)
    assert (turned(x[:, order], GRID)[0] - turned(x, GRID)[0][:, order]).abs().max() > 1e-4
    assert (turned(x, (2, 3))[0] - turned(x, (3, 2))[0]).abs().max() > 1e-4


def test_linear_treats_every_token_alone_and_attention_does_not() -> None:
    x = features()
    changed = x.clone()
    changed[:, 5] += 1
    for kind, alone in (("linear", True), ("attention", False), ("transformer", False)):
        adapter = make(type=kind)
        difference = (adapter(changed, GRID)[0] - adapter(x, GRID)[0])[:, :5].abs().max()
        assert (difference == 0) == alone, kind


def test_direct_predict_keeps_the_features_and_has_nothing_to_train() -> None:
    adapter, x = make(type="identity", channels=16), features()
    mean, logvar = adapter(x, GRID)
    assert torch.equal(mean, x)
    assert logvar.exp().max() < 1e-12
    assert not list(adapter.parameters())
    with pytest.raises(FAEError, match="set channels to 16, not 3"):
        make(type="identity")


@pytest.mark.parametrize("depth", [4, 6])
def test_the_transformer_is_as_deep_as_told(depth: int) -> None:
    adapter = make(type="transformer", depth=depth)
    layer = 2 * 16 + (16 * 48 + 48) + (16 * 16 + 16) + (16 * 96 + 96) + (48 * 16 + 16)
    assert sum(p.numel() for p in adapter.parameters()) == depth * layer + 16 + (16 * 6 + 6)
    assert adapter(features(), GRID)[0].shape == (2, 6, 3)


@pytest.mark.parametrize("kind", ["attention", "linear", "transformer"])
def test_every_parameter_learns(kind: str) -> None:
    adapter = make(type=kind, input_norm="layer")
    mean, logvar = adapter(features(), GRID)
    (mean.square().sum() + logvar.sin().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.parameters())


@pytest.mark.parametrize(("dim", "heads"), [(384, 6), (768, 12), (1024, 16), (1536, 24), (112, 7), (176, 11)])
def test_default_heads_are_as_wide_as_the_paper_has_them_where_that_divides(dim: int, heads: int) -> None:
    with torch.device("meta"):
        assert create_adapter(AdapterConfig(), dim, 4).heads == heads


def test_widths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(FAEError, match="not a multiple of 5 heads"):
        make(heads=5)
    with pytest.raises(FAEError, match="rope needs"):
        make(hidden=6, heads=3, rope=True)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["attention", "linear", "transformer"])
def test_rms_latents_have_one_length_and_no_variance(kind: str) -> None:
    """GAE's: x / sqrt(mean(x^2) + 1e-6) over the channels of each position, without a learned scale."""
    adapter = make(type=kind, depth=1, latent_norm="rms")
    projected: list[torch.Tensor] = []
    adapter.out.register_forward_hook(lambda module, inputs, output: projected.append(output))
    mean, logvar = adapter(3 * features(), GRID)
    assert adapter.out.out_features == 3 and projected[0].shape == mean.shape == logvar.shape == (2, 6, 3)
    for row, raw in zip(mean.flatten(0, 1), projected[0].flatten(0, 1), strict=True):
        length = math.sqrt(sum(float(v) ** 2 for v in raw) / 3 + 1e-6)
        torch.testing.assert_close(row, raw / length, atol=1e-5, rtol=1e-5)
    assert torch.all(logvar == -30)
    assert AdapterConfig(type=kind, latent_norm="rms").unseen_in_weights != AdapterConfig(type=kind).unseen_in_weights


def test_features_as_latents_are_not_normalised() -> None:
    with pytest.raises(FAEError, match="latent_norm is for the others"):
        make(dim=3, type="identity", latent_norm="rms")


@torch.no_grad()
@pytest.mark.parametrize("fields", [{"rope": True}, {"type": "transformer", "depth": 1}])
def test_a_first_call_may_be_exported_or_compiled_whole(fields: dict[str, object]) -> None:
    for grid in ((1, 6), (6, 1)):  # others than in other tests
        adapter, x = make(**fields), features()
        program = torch.export.export(adapter, (x, grid)).module()
        torch._dynamo.reset()
        compiled = torch.compile(adapter, backend="aot_eager", fullgraph=True)
        expected = adapter(x, grid)[0]
        assert type(expected) is torch.Tensor
        torch.testing.assert_close(program(x, grid)[0], expected)
        torch.testing.assert_close(compiled(x, grid)[0], expected)


@pytest.mark.parametrize("activation", ["gelu", "silu", "relu", "none"])
def test_adapters_can_be_pickled(activation: str) -> None:
    adapter, x = make(activation=activation), features()
    assert torch.equal(pickle.loads(pickle.dumps(adapter))(x, GRID)[0], adapter(x, GRID)[0])  # noqa: S301
