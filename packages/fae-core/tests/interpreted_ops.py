"""Tests of the kernels in triton's interpreter.

`test_ops_triton.py` runs this file in a process of its own, because TRITON_INTERPRET=1 has to be set before triton is
imported; pytest does not collect it by itself.
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
    q, wide = randn(1, 2, 8, 64), randn(1, 1, 300, 80)
    angles = randn(8, 32, seed=1)
    tables = (angles.cos(), angles.sin())
    with ops.backend("triton"):
        assert ops.explain("attention", q, q, q).backend == "triton"
        for explanation in (
            ops.explain("attention", q, q, q, causal=True),
            ops.explain("attention", wide, wide, wide),
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
        (
            lambda: ops.adaln(torch.zeros(2, 3, 8), torch.zeros(2, 8), weight=torch.ones(1), backend="triton"),
            "the weight has",
        ),
        (lambda: ops.qk_norm_rope(QKV, k_weight=torch.ones(32), backend="triton"), "the weight has"),
        (lambda: ops.self_attention(QKV, q_weight=torch.ones(1, 64), backend="triton"), "the weight has"),
        (lambda: ops.qk_norm_rope(torch.zeros(1, 4, 3, 2, 258), backend="triton"), "larger than 256"),
        (lambda: ops.qk_norm_rope(torch.zeros(1, 4, 3, 2, 9), backend="triton"), "pairs"),
        (lambda: ops.qk_norm_rope(QKV, *(t[None].expand(2, 4, 32) for t in TABLES), backend="triton"), "neither"),
        (
            lambda: ops.self_attention(QKV, *(t.clone().requires_grad_() for t in TABLES), backend="triton"),
            "no gradient",
        ),
        (lambda: ops.attention(*(torch.zeros(1, 2, 4, 80),) * 3, backend="triton"), "64 and 72, not 80"),
        (lambda: ops.attention(*(torch.zeros(1, 2, n, 64) for n in (3, 0, 0)), backend="triton"), "1 key or more"),
        (lambda: ops.attention(*(torch.zeros(1, 2, 4, 64),) * 3, causal=True, backend="triton"), "no causal order"),
        (lambda: ops.attention(*(torch.zeros(1, 2, 4, 64, device="meta"),) * 3, backend="triton"), "on meta"),
    ],
)  # fmt: skip
def test_calls_beyond_the_contract_say_what_is_wrong(call, complaint: str) -> None:
    with pytest.raises(FAEError, match=f"'triton' was asked for but cannot run: .*{complaint}"):
        call()


def test_tables_that_do_not_reach_all_keys_and_half_a_pair_of_tables_are_refused() -> None:
    q, k = torch.zeros(1, 2, 4, 64), torch.zeros(1, 2, 9, 64)
    for backend in ("triton", "reference", None):
        with pytest.raises(FAEError, match="do not fit x: 9 tokens"):
            ops.rope_attention(q, k, k, *TABLES, backend=backend)
        for half in ((TABLES[0], None), (None, TABLES[1])):
            with pytest.raises(FAEError, match="in pairs"):
                ops.self_attention(QKV, *half, backend=backend)


def _layouts(value: Tensor) -> dict[str, Tensor]:
    """The same numbers in memory with gaps, with an offset, with the outer axes swapped; and one number repeated."""
    spread = torch.full((*value.shape, 2), float("nan"))
    spread[..., 0] = value
    shifted = torch.full((value.numel() + 3,), float("nan"))
    shifted[3:] = value.flatten()
    rows = torch.full((*value.shape[:-1], value.shape[-1] + 4), float("nan"))
    rows[..., :-4] = value
    return {
        "stride 2": spread[..., 0],
        "offset": shifted[3:].view(value.shape),
        "gaps between rows": rows[..., :-4],
        "transposed": value.transpose(0, -1).contiguous().transpose(0, -1),
        "expanded": value.flatten()[0].expand(value.shape),
    }


def _operands() -> dict[str, tuple[dict[str, Tensor], object]]:
    """Each op's operands by name, and the op as a function of them and a backend, with one output to differentiate."""
    x, rows, weight = randn(2, 5, 64), randn(2, 64, seed=1), 1 + 0.3 * randn(64, seed=2)
    heads, qkv, angles = randn(2, 2, 5, 64), randn(2, 5, 3, 2, 64), randn(5, 32, seed=3)
    tables = {"cos": angles.cos(), "sin": angles.sin()}
    weights = {"q_weight": weight, "k_weight": weight.flip(0)}

    def adaln(t, backend):
        residual, out = ops.adaln(t["x"], t["scale"], t["shift"], **_pick(t, "update gate weight"), backend=backend)
        return residual + 2 * out

    def packed(t, backend):
        q, k, v = ops.qk_norm_rope(t["qkv"], t["cos"], t["sin"], **_pick(t, "q_weight k_weight"), backend=backend)
        return q + 2 * k + 3 * v

    return {
        "rms_norm": ({"x": x, "weight": weight}, lambda t, b: ops.rms_norm(*t.values(), backend=b)),
        "adaln": (
            {"x": x, "update": x.flip(0), "scale": rows, "shift": rows + 1, "gate": rows - 1, "weight": weight},
            adaln,
        ),
        "swiglu": ({"x": x, "bias": weight}, lambda t, b: ops.swiglu(*t.values(), backend=b)),
        "apply_rope": ({"x": heads, **tables}, lambda t, b: ops.apply_rope(*t.values(), backend=b)),
        "apply_rope half": ({"x": heads, **tables}, lambda t, b: ops.apply_rope(*t.values(), "half", backend=b)),
        "qk_norm_rope": ({"qkv": qkv, **tables, **weights}, packed),
        "attention": (
            {"q": heads, "k": heads.flip(0), "v": heads.flip(1)},
            lambda t, b: ops.attention(*t.values(), backend=b),
        ),
        "rope_attention": (
            {"q": heads, "k": heads.flip(0), "v": heads.flip(1), **tables},
            lambda t, b: ops.rope_attention(*t.values(), backend=b),
        ),
        "self_attention": (
            {"qkv": qkv, **tables, **weights},
            lambda t, b: ops.self_attention(
                t["qkv"], t["cos"], t["sin"], **_pick(t, "q_weight k_weight"), layout="half", backend=b
            ),
        ),
    }


def _pick(tensors: dict[str, Tensor], names: str) -> dict[str, Tensor]:
    return {name: tensors[name] for name in names.split()}


@pytest.mark.parametrize("op", _operands())
def test_every_operand_may_lie_in_memory_as_it_likes(op: str) -> None:
    """With strides, offsets and repeated numbers, every operand gives the reference's values and gradients."""
    operands, call = _operands()[op]

    def run(tensors: dict[str, Tensor], ahead: Tensor | None, backend: str) -> list[Tensor]:
        leaves = {name: t if name in ("cos", "sin") else t.detach().requires_grad_() for name, t in tensors.items()}
        out = call(leaves, backend)
        wanted = [t for t in leaves.values() if t.requires_grad]
        return [out.detach(), *torch.autograd.grad(out, wanted, torch.ones_like(out) if ahead is None else ahead)]

    ahead = randn(*call(operands, "reference").shape, seed=7)
    for layout, odd in _layouts(ahead).items():
        for tensors, gradient in (({name: _layouts(t)[layout] for name, t in operands.items()}, None), (operands, odd)):
            results = (run(tensors, gradient, backend) for backend in ("triton", "reference"))
            for got, want in zip(*results, strict=True):
                # Equal keys have gradients of 0 but for rounding.
                assert (got - want).norm() <= 1e-5 * want.norm() + 1e-3, (layout, gradient is None)


@pytest.mark.parametrize("op", _operands())
def test_a_kernel_is_refused_where_torchs_transforms_would_make_its_derivative_0(op: str) -> None:
    operands, call = _operands()[op]
    first, *rest = operands
    x, fixed = operands[first], {name: operands[name] for name in rest}

    def function(value: Tensor, backend: str) -> Tensor:
        return call({first: value, **fixed}, backend)

    def twice(backend: str) -> Tensor:
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(leaf, backend).pow(3).sum(), leaf, create_graph=True)
        return torch.autograd.grad(gradient.pow(2).sum(), leaf)[0]

    derivatives = {
        "jvp": lambda b: torch.func.jvp(lambda v: function(v, b), (x,), (torch.ones_like(x),))[1],
        "grad": lambda b: torch.func.grad(lambda v: function(v, b).square().sum())(x),
        "vjp": lambda b: torch.func.vjp(lambda v: function(v, b), x)[1](torch.ones_like(function(x, b)))[0],
        "jvp of grad": lambda b: torch.func.jvp(
            torch.func.grad(lambda v: function(v, b).square().sum()), (x,), (torch.ones_like(x),)
        )[1],
        "second": twice,
    }
    for name, derivative in derivatives.items():
        want = derivative("reference")
        assert want.abs().max() > 0, name
        try:
            got = derivative("triton")
        except FAEError as error:
            assert "\n" not in str(error)
            assert "reference" in str(error)
        else:
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
        if name != "second":  # torch's own attention has no second derivative on the CPU
            torch.testing.assert_close(derivative("auto"), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("op", _operands())
def test_vmap_goes_through_the_kernels(op: str) -> None:
    operands, call = _operands()[op]
    first = next(iter(operands))
    many = torch.stack([operands[first], 2 * operands[first].flip(0)], dim=1)
    got = torch.vmap(lambda v: call(operands | {first: v}, "triton"), in_dims=1)(many)
    want = torch.stack([call(operands | {first: v}, "reference") for v in many.unbind(1)])
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
