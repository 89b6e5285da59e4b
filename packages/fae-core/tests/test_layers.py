"""Layers equal their formulas: position tables by hand, attention by parts, feed-forwards by their definition."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fae_core import ops
from fae_core.errors import FAEError
from fae_core.layers import (
    MLP,
    AxialRope,
    LabelEmbedding,
    RMSNorm,
    SelfAttention,
    SwiGLU,
    TimestepEmbedding,
    axial_angles,
    class_labels,
    sincos_position_table,
    swiglu_hidden,
)


def test_axial_angles_by_hand() -> None:
    """2 rows x 3 columns, head dimension 8: two frequencies a half, 1 and 10000^(-1/2) = 0.01; rows first."""
    angles = axial_angles(2, 3, 8)
    assert angles.shape == (6, 4)
    want = [[y, 0.01 * y, x, 0.01 * x] for y in range(2) for x in range(3)]
    torch.testing.assert_close(angles, torch.tensor(want, dtype=torch.float64))


def test_axial_rope_depends_on_relative_rows_and_columns() -> None:
    """The score of two tokens is the same for every pair with the same offset on the grid."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 16, generator=generator)
    cos, sin = AxialRope(4, 5, 16)()
    q, k = (ops.apply_rope(x.expand(1, 1, 20, 16), cos, sin)[0, 0].view(4, 5, 16) for x in (query, key))
    one = (q[0, 1] * k[2, 2]).sum()
    torch.testing.assert_close((q[1, 2] * k[3, 3]).sum(), one, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close((q[0, 3] * k[2, 4]).sum(), one, atol=1e-4, rtol=1e-4)
    assert abs((q[0, 1] * k[2, 3]).sum() - one) > 1e-2


def test_rope_tables_stay_in_single_precision_and_out_of_the_state() -> None:
    rope = AxialRope(3, 3, 8).to(torch.bfloat16)
    assert rope.cos.dtype == rope.sin.dtype == torch.float32
    assert rope.state_dict() == {}


@pytest.mark.parametrize("bad", [6, 10])
def test_position_tables_need_a_multiple_of_four(bad: int) -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        axial_angles(2, 2, bad)
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_position_table(2, 2, bad)


def test_sincos_table_is_its_formula() -> None:
    """Entry by entry: sin and cos of the column, then of the row, at rates 10000^(-i / (D / 4))."""
    height, width, dim = 3, 5, 16
    table = sincos_position_table(height, width, dim)
    for y in range(height):
        for x in range(width):
            rates = [10000 ** (-i / 4) for i in range(4)]
            want = [f(p * r) for p in (x, y) for f in (math.sin, math.cos) for r in rates]
            torch.testing.assert_close(table[y * width + x], torch.tensor(want))


def test_timestep_features_are_sinusoids() -> None:
    embedding = TimestepEmbedding(8, frequencies=6)
    embedding.mlp = torch.nn.Sequential(torch.nn.Linear(6, 6))
    torch.nn.init.eye_(embedding.mlp[0].weight)
    torch.nn.init.zeros_(embedding.mlp[0].bias)
    t = torch.tensor([0.0, 0.25, 1.0])
    rates = [1.0, 10000 ** (-1 / 3), 10000 ** (-2 / 3)]
    want = [[f(float(v) * r) for f in (math.cos, math.sin) for r in rates] for v in t]
    torch.testing.assert_close(embedding(t), torch.tensor(want))


def test_the_null_label_is_the_last_row() -> None:
    table = LabelEmbedding(10, 4)
    assert table.null_label == 10
    assert torch.equal(table(torch.tensor([3, 10])), table.table.weight[[3, 10]])
    with pytest.raises(IndexError):
        LabelEmbedding(10, 4, null=False)(torch.tensor([10]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.uint32, np.uint64, np.int64])
def test_labels_of_any_integers_are_checked(dtype: type) -> None:
    labels = class_labels(np.array([0, 4], dtype), 2, 5)
    assert labels.dtype == torch.int64 and labels.tolist() == [0, 4]
    for wrong in (5, np.iinfo(dtype).max):
        with pytest.raises(FAEError, match=rf"must lie in 0\.\.4, got 0\.\.{wrong};"):
            class_labels(np.array([wrong, 0], dtype), 2, 5)


def test_labels_whose_values_cannot_be_read_pass() -> None:
    labels = torch.tensor([[0], [4], [7]])
    assert torch.equal(torch.func.vmap(lambda row: class_labels(row, 1, 5))(labels), labels)
    assert class_labels(labels[:, 0].to("meta"), 3, 5).is_meta
    assert class_labels(labels[:0, 0], 0, 5).shape == (0,)
    with pytest.raises(FAEError, match=r"got 0\.\.7"):  # a gradient alone hides no values
        torch.func.grad(lambda x, labels: x * class_labels(labels, 3, 5).sum())(torch.tensor(1.0), labels[:, 0])


@pytest.mark.parametrize(("dim", "hidden"), [(1536, 4096), (1024, 2736), (192, 512), (3, 8)])
def test_swiglu_widths(dim: int, hidden: int) -> None:
    assert swiglu_hidden(dim) == hidden


def test_swiglu_and_mlp_are_their_formulas() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6)
    gated = SwiGLU(6, 8)
    gate, up = gated.gate_up.weight[:8], gated.gate_up.weight[8:]
    hidden = F.silu(x @ gate.T + gated.gate_up.bias[:8]) * (x @ up.T + gated.gate_up.bias[8:])
    torch.testing.assert_close(gated(x), hidden @ gated.down.weight.T + gated.down.bias)
    with torch.no_grad():
        assert torch.equal(gated(x), gated(x.clone().requires_grad_()))
    mlp = MLP(6, 8)
    inner = x @ mlp.up.weight.T + mlp.up.bias
    gelu = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
    torch.testing.assert_close(mlp(x), gelu @ mlp.down.weight.T + mlp.down.bias)


def test_rms_norm_begins_as_the_plain_norm() -> None:
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(RMSNorm(8)(x), RMSNorm(8, affine=False)(x))
    assert list(RMSNorm(8, affine=False).parameters()) == []


@pytest.mark.parametrize("qk_norm", [False, True, "layer"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rotate", [False, True])
def test_self_attention_is_its_parts(qk_norm: bool | str, causal: bool, rotate: bool) -> None:
    torch.manual_seed(0)
    layer = SelfAttention(16, 2, qk_norm=qk_norm, causal=causal)
    x, tables = torch.randn(2, 6, 16), AxialRope(2, 3, 8)()
    if qk_norm:
        torch.nn.init.normal_(layer.q_norm.weight)
        torch.nn.init.normal_(layer.k_norm.weight)
    q, k, v = (part.view(2, 6, 2, 8).transpose(1, 2) for part in layer.qkv(x).chunk(3, dim=-1))
    if qk_norm:
        q, k = layer.q_norm(q), layer.k_norm(k)
    if rotate:
        q, k = ops.apply_rope(q, *tables), ops.apply_rope(k, *tables)
    scores = q @ k.transpose(-1, -2) / math.sqrt(8)
    if causal:
        scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf)
    want = layer.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 6, 16))
    torch.testing.assert_close(layer(x, tables if rotate else None), want, atol=1e-5, rtol=1e-5)


def test_nothing_attends_to_nothing() -> None:
    assert SelfAttention(16, 2)(torch.empty(0, 6, 16)).shape == (0, 6, 16)


class Wrapped(torch.nn.Module):
    """A trained copy in the place of a module, as peft's `modules_to_save` puts it."""

    def __init__(self, copied: torch.nn.Module) -> None:
        super().__init__()
        self.copied = copied

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.copied(x)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norms_of_heads_that_are_wrapped_or_hooked_are_called(kind: str) -> None:
    torch.manual_seed(0)
    layer, x, tables = SelfAttention(16, 2, qk_norm=kind), torch.randn(2, 6, 16), AxialRope(2, 3, 8)()
    torch.nn.init.normal_(layer.q_norm.weight)
    torch.nn.init.normal_(layer.k_norm.weight)
    want = layer(x, tables)
    wrapped, hooked = copy.deepcopy(layer), copy.deepcopy(layer)
    wrapped.q_norm, wrapped.k_norm = Wrapped(wrapped.q_norm), Wrapped(wrapped.k_norm)
    torch.testing.assert_close(wrapped(x, tables), want)
    hooked.q_norm.register_forward_pre_hook(lambda module, inputs: -inputs[0])
    hooked.k_norm.register_forward_hook(lambda module, inputs, output: -output)
    torch.testing.assert_close(hooked(x, tables), want)
    hooked.k_norm.register_forward_hook(lambda module, inputs, output: -output)
    assert not torch.allclose(hooked(x, tables), want)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple of 3 heads"):
        SelfAttention(16, 3)
