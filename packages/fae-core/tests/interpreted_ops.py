"""Tests of the kernels through triton's interpreter. `test_ops_triton.py` runs this file in a process of its own, because
TRITON_INTERPRET=1 has to be set before triton is imported; pytest does not collect it by itself.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fae_core import ops
from fae_core.errors import FAEError
from fae_core.layers import AxialRope, RMSNorm, SelfAttention
from fae_core.ops import triton
from fae_core.ops.triton import configs

assert triton.INTERPRETED, "set TRITON_INTERPRET=1"


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Block(torch.nn.Module):
    """A small DiT block out of the layers and ops that the models use."""

    def __init__(self, **attention: object) -> None:
        super().__init__()
        self.modulation, self.attention = torch.nn.Linear(16, 5 * 128), SelfAttention(128, 2, **attention)
        self.norm, self.mlp = RMSNorm(128), torch.nn.Linear(128, 128)
        self.rope = AxialRope(3, 4, 64)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2 = self.modulation(c).chunk(5, dim=1)
        x, h = ops.adaln(x, scale, shift, norm="layer")
        attended = self.attention(h, self.rope())
        x, h = ops.adaln(x, scale2, shift2, update=attended, gate=gate, weight=self.norm.weight)
        return self.norm(x + self.mlp(h))


@pytest.mark.parametrize(
    "attention", [{"qk_norm": True}, {"qk_norm": "layer"}, {"causal": True}, {"rope_layout": "half"}], ids=str
)
def test_a_model_computes_the_same_through_every_backend(attention: dict[str, object]) -> None:
    torch.manual_seed(0)
    block, x, c = Block(**attention), randn(2, 12, 128).requires_grad_(), randn(2, 16, seed=1)
    ahead = randn(2, 12, 128, seed=2)

    def run(function) -> list[Tensor]:
        y = function(x, c)
        return [y, *torch.autograd.grad((y * ahead).sum(), (x, *block.parameters()))]

    with ops.backend("reference"):
        want = run(block)
    functions = {"sdpa": block, "triton": block}
    if "qk_norm" in attention:
        functions["checkpointed triton"] = lambda *inputs: checkpoint(block, *inputs, use_reentrant=False)
    if attention.get("qk_norm") is True:
        functions["compiled triton"] = torch.compile(block, fullgraph=True, backend="aot_eager")
    for name, function in functions.items():
        with ops.backend(name.split()[-1]):
            got = run(function)
        for one, other in zip(got, want, strict=True):
            error = (one - other).norm() / other.norm()
            assert error < 1e-5, (name, error)


def test_a_pinned_triton_does_what_its_kernels_can_and_says_so() -> None:
    q, long = randn(1, 2, 8, 64), randn(1, 1, 300, 64)
    angles = randn(8, 32, seed=1)
    tables = (angles.cos(), angles.sin())
    with ops.backend("triton"):
        assert ops.explain("attention", q, q, q).backend == "triton"
        for explanation in (
            ops.explain("attention", q, q, q, causal=True),
            ops.explain("attention", long, long, long),
            ops.explain("rope_attention", q, q, q, mask=torch.ones(8, 8).bool()),
        ):
            assert explanation.backend == "sdpa"
            assert "triton was asked for" in explanation.reason
            assert explanation.rejected["triton"]
        torch.testing.assert_close(
            ops.rope_attention(q, q, q, *tables, causal=True),
            ops.rope_attention(q, q, q, *tables, causal=True, backend="reference"),
        )
    grouped = ops.rope_attention(q, q[:, :1], q[:, :1], *tables, backend="triton")
    torch.testing.assert_close(grouped, ops.rope_attention(q, q[:, :1], q[:, :1], *tables, backend="reference"))


def test_any_strides_give_what_contiguous_memory_gives() -> None:
    wide = randn(2, 6, 3, 4, 80)
    qkv = wide[:, ::2, :, 1:3, 8:72]
    x = randn(3, 64, 5).mT
    for call in (
        lambda t: ops.self_attention(t, backend="triton"),
        lambda t: ops.qk_norm_rope(t, q_weight=t[0, 0, 0, 0].detach(), backend="triton")[0],
    ):
        assert torch.equal(call(qkv), call(qkv.contiguous()))
    assert torch.equal(ops.rms_norm(x, backend="triton"), ops.rms_norm(x.contiguous(), backend="triton"))
    five = randn(2, 2, 3, 2, 8).transpose(0, 3)
    assert torch.equal(ops.rms_norm(five, backend="triton"), ops.rms_norm(five.contiguous(), backend="triton"))


def test_the_interpreter_is_not_trusted_with_bfloat16() -> None:
    x = randn(2, 8).bfloat16()
    with pytest.raises(FAEError, match="interpreter gets bfloat16 wrong"):
        ops.rms_norm(x, backend="triton")


QKV, TABLES = torch.zeros(1, 4, 3, 2, 64), (torch.zeros(4, 32), torch.zeros(4, 32))


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: ops.rms_norm(torch.zeros(2, configs.MAX_WIDTH + 1), backend="triton"), "longer than"),
        (lambda: ops.rms_norm(torch.zeros(2, 8).double(), backend="triton"), "float64 is not one of"),
        (lambda: ops.rms_norm(torch.zeros(2, 8), torch.zeros(8).double(), backend="triton"), "float64"),
        (lambda: ops.adaln(torch.zeros(2, 8), torch.zeros(2, 8), backend="triton"), r"shape \(B, N, D\)"),
        (lambda: ops.adaln(torch.zeros(2, 3, 8), torch.zeros(1, 8), backend="triton"), r"shape \(B, D\)"),
        (lambda: ops.qk_norm_rope(torch.zeros(1, 4, 3, 2, 258), backend="triton"), "larger than 256"),
        (lambda: ops.qk_norm_rope(torch.zeros(1, 4, 3, 2, 9), backend="triton"), "pairs"),
        (lambda: ops.qk_norm_rope(QKV, *(t[None].expand(2, 4, 32) for t in TABLES), backend="triton"), "neither"),
        (lambda: ops.self_attention(QKV, *(t.clone().requires_grad_() for t in TABLES), backend="triton"), "no gradient"),
        (lambda: ops.attention(*(torch.zeros(1, 2, 4, 80),) * 3, backend="triton"), "64 and 72, not 80"),
        (lambda: ops.attention(*(torch.zeros(1, 2, 300, 64),) * 3, backend="triton"), "1 to 256 keys, not 300"),
        (lambda: ops.attention(*(torch.zeros(1, 2, 4, 64),) * 3, causal=True, backend="triton"), "no causal order"),
        (lambda: ops.attention(*(torch.zeros(1, 2, 4, 64, device="meta"),) * 3, backend="triton"), "on meta"),
    ],
)  # fmt: skip
def test_calls_beyond_the_contract_say_what_is_wrong(call, complaint: str) -> None:
    with pytest.raises(FAEError, match=f"'triton' was asked for but cannot run: .*{complaint}"):
        call()
