"""The kernels' operators behave as torch's own do: schema, fake tensors, autograd, compile, checkpoint, autocast, vmap.

On the CPU an operator computes in plain torch what its kernel does; `test_ops_triton.py` looks at the kernels.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from fae_core import ops
from fae_core.ops import operators


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tables(tokens: int, width: int) -> tuple[Tensor, Tensor]:
    angles = randn(tokens, width // 2, seed=9)
    return angles.cos(), angles.sin()


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return randn(*shape, seed=seed).requires_grad_()


def calls() -> dict[str, tuple[object, tuple[object, ...]]]:
    """Every operator with all its options, and with as few as it takes."""
    qkv, weights, turn = leaf(2, 5, 3, 2, 8), (leaf(8, seed=1), leaf(8, seed=2)), tables(5, 8)
    heads = [leaf(2, 2, 5, 8, seed=s) for s in (3, 4, 5)]
    x, update, rows = leaf(2, 5, 8), leaf(2, 5, 8, seed=1), [leaf(2, 8, seed=s) for s in (2, 3, 4)]
    return {
        "rms_norm": (operators.rms_norm, (x, weights[0], 1e-6)),
        "rms_norm-plain": (operators.rms_norm, (x, None, 1e-6)),
        "qk_norm_rope": (operators.qk_norm_rope, (qkv, *turn, *weights, leaf(48, seed=6), True, 1e-6)),
        "qk_norm_rope-plain": (operators.qk_norm_rope, (qkv, None, None, None, None, None, True, 1e-6)),
        "apply_rope": (operators.apply_rope, (heads[0], *turn, False, False)),
        "adaln": (operators.adaln, (x, update, *rows, *weights, False, 1e-6)),
        "adaln-plain": (operators.adaln, (x, None, None, rows[1], None, None, None, True, 1e-6)),
        "attention": (operators.attention, (*heads, 0.3)),
        "swiglu": (operators.swiglu, (x, weights[0])),
    }


@pytest.mark.parametrize("name", calls())
def test_torch_finds_the_operator_well_formed(name: str) -> None:
    operator, arguments = calls()[name]
    torch.library.opcheck(operator, arguments)


def public(name: str, t: dict[str, Tensor], plain: bool) -> tuple[Tensor, ...]:
    """An op as models call it; plain: through torch, else through the operator."""
    turn = (t["cos"], t["sin"])
    heads = [t[n] for n in ("q", "k", "v")]
    if name == "rms_norm":
        return (ops.rms_norm(t["x"], t["w"]) if plain else operators.rms_norm(t["x"], t["w"], 1e-6)[0],)
    if name == "qk_norm_rope":
        if plain:
            return ops.qk_norm_rope(t["qkv"], *turn, q_weight=t["w"], k_weight=t["w"])
        return operators.qk_norm_rope(t["qkv"], *turn, t["w"], t["w"], None, True, 1e-6)
    if name == "apply_rope":
        if plain:
            return (ops.apply_rope(heads[0], *turn, "half"),)
        return (operators.apply_rope(t["q"], *turn, False, False),)
    if name == "adaln":
        if plain:
            return ops.adaln(t["x"], t["a"], t["b"], update=t["u"], gate=t["c"], weight=t["w"], norm="layer")
        return operators.adaln(t["x"], t["u"], t["c"], t["a"], t["b"], t["w"], None, True, 1e-6)[:2]
    if plain:
        return (ops.attention(*heads, scale=0.3),)
    return (operators.attention(t["q"], t["k"], t["v"], 0.3)[0],)


OPS = ("rms_norm", "qk_norm_rope", "apply_rope", "adaln", "attention")


def leaves() -> dict[str, Tensor]:
    shapes = {"x": (2, 5, 8), "u": (2, 5, 8), "qkv": (2, 5, 3, 2, 8), "w": (8,), "a": (2, 8), "b": (2, 8), "c": (2, 8)}
    shapes |= dict.fromkeys("qkv", (2, 2, 5, 8))
    made = {name: leaf(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}
    return made | dict(zip(("cos", "sin"), tables(5, 8), strict=True))


def fake_cuda() -> dict[str, Tensor]:
    """The same tensors without memory; inside a FakeTensorMode."""
    return {n: torch.empty(t.shape, device="cuda", requires_grad=t.requires_grad) for n, t in leaves().items()}


def results(name: str, function) -> list[Tensor | None]:
    tensors = leaves()
    outputs = function(name, tensors)
    ahead = [randn(*y.shape, seed=20 + i) for i, y in enumerate(outputs)]
    return [
        *outputs,
        *torch.autograd.grad(outputs, [t for t in tensors.values() if t.requires_grad], ahead, allow_unused=True),
    ]


@pytest.mark.parametrize("name", OPS)
def test_operators_compute_what_plain_torch_does(name: str) -> None:
    got, want = (results(name, lambda n, t, p=plain: public(n, t, p)) for plain in (False, True))
    for one, other in zip(got, want, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("name", OPS)
def test_operators_compile_whole_and_survive_checkpointing(name: str) -> None:
    want = results(name, lambda n, t: public(n, t, False))
    compiled = torch.compile(lambda n, t: public(n, t, False), fullgraph=True, backend="aot_eager")

    def again(n: str, t: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return checkpoint(lambda: public(n, t, False), use_reentrant=False)

    for got in (results(name, compiled), results(name, again)):
        for one, other in zip(got, want, strict=True):
            assert one is other is None or torch.equal(one, other)


@pytest.mark.parametrize("name", OPS)
def test_operators_run_on_fake_cuda_tensors(name: str) -> None:
    """Shapes, dtypes and strides can be traced where no GPU is."""
    with FakeTensorMode():
        outputs = public(name, fake_cuda(), False)
    for one, other in zip(outputs, public(name, leaves(), False), strict=True):
        assert one.device.type == "cuda"
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())


@pytest.mark.parametrize("name", OPS)
def test_pinned_triton_is_traced_through_the_public_door(name: str) -> None:
    pytest.importorskip("triton", reason="triton is optional")
    with FakeTensorMode(), ops.backend("triton"):
        outputs = public(name, fake_cuda(), True)
    for one, other in zip(outputs, public(name, leaves(), True), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


def test_dtypes_promote_as_in_plain_torch() -> None:
    """Mixed dtypes as autocast makes them: bf16 branches on an fp32 stream, fp32 weights on bf16 heads."""
    x, update = randn(2, 5, 8), randn(2, 5, 8, dtype=torch.bfloat16)
    scale, shift, gate = (randn(2, 8, dtype=torch.bfloat16, seed=s) for s in (1, 2, 3))
    weight = randn(8)
    got = operators.adaln(x, update, gate, scale, shift, weight, None, False, 1e-6)[:2]
    want = ops.adaln(x, scale, shift, update=update, gate=gate, weight=weight)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=2e-2, rtol=2e-2)
    half = update[:, :, None, None].expand(2, 5, 3, 2, 8)
    for one, other in zip(
        operators.qk_norm_rope(half, None, None, weight, weight, None, True, 1e-6),
        ops.qk_norm_rope(half, q_weight=weight, k_weight=weight),
        strict=True,
    ):
        assert one.dtype == other.dtype
    assert operators.rms_norm(update, weight, 1e-6)[0].dtype == ops.rms_norm(update, weight).dtype == torch.float32


def test_autocast_reaches_the_operators_as_it_reaches_torch() -> None:
    layer, x = torch.nn.Linear(8, 48), randn(2, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        qkv = layer(x).view(2, 5, 3, 2, 8)
        out, _ = operators.attention(*(x.transpose(1, 2) for x in qkv.unbind(2)), 8**-0.5)
        want = ops.self_attention(qkv)
    assert out.dtype == want.dtype == torch.bfloat16
    torch.testing.assert_close(out, want, atol=2e-2, rtol=2e-2)
    out.float().sum().backward()
    assert layer.weight.grad is not None


def test_row_norms_map_over_a_batch() -> None:
    x, weight = randn(3, 4, 8), randn(8)
    got = torch.vmap(lambda row: operators.rms_norm(row, weight, 1e-6)[0])(x)
    torch.testing.assert_close(got, ops.rms_norm(x, weight))


def test_gradients_of_gradients_are_refused() -> None:
    x = leaf(2, 8)
    (gradient,) = torch.autograd.grad(operators.rms_norm(x, None, 1e-6)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="rms_norm_backward"):
        gradient.sum().backward()
