"""Every op equals its definition, written out in double precision with loops; backends agree; choices are explained."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fae_core import ops
from fae_core.errors import FAEError, UnknownName
from fae_core.ops import reference

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda d: str(d)[6:])
CPU_BACKENDS = ("auto", "sdpa", "sdpa-math", "reference")


def randn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def naive_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, allowed: Tensor | None = None, bias=None) -> Tensor:
    """One row at a time: the definition of attention."""
    q, k, v = q.double(), k.double(), v.double()
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=torch.float64)
    groups = q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for n in range(q.shape[2]):
                scores = torch.stack([(q[b, h, n] * key).sum() for key in k[b, h // groups]]) * scale
                if bias is not None:
                    scores = scores + bias[n]
                if allowed is not None:
                    scores[~allowed[n]] = -math.inf
                weights = (scores - scores.max()).exp()
                out[b, h, n] = (weights[:, None] / weights.sum() * v[b, h // groups]).sum(0)
    return out


@dtypes
@pytest.mark.parametrize("shape", [(2, 3, 8), (1, 5), (4, 1, 2, 7)])
def test_rms_norm_is_its_formula(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, weight = randn(*shape, dtype=dtype), randn(shape[-1], dtype=dtype, seed=1)
    wide = x.double()
    unit = wide / (wide.pow(2).sum(-1, keepdim=True) / shape[-1] + 1e-6).sqrt()
    close(ops.rms_norm(x), unit, dtype)
    close(ops.rms_norm(x, weight), unit * weight.double(), dtype)


def test_rms_norm_by_hand() -> None:
    out = ops.rms_norm(torch.tensor([3.0, 4.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 1.0, 2.0]), eps=0.0)
    torch.testing.assert_close(out, torch.tensor([1.2, 1.6, 0.0, 0.0]))  # the root mean square is 5 / 2


def test_rms_norm_ignores_scale_and_survives_zeros_and_large_numbers() -> None:
    x = randn(3, 16, dtype=torch.float32)
    torch.testing.assert_close(ops.rms_norm(x * 1e4, eps=0.0), ops.rms_norm(x, eps=0.0))
    assert ops.rms_norm(torch.zeros(2, 8)).abs().max() == 0
    assert ops.rms_norm(torch.full((1, 8), 300.0, dtype=torch.float16)).isfinite().all()  # 300^2 overflows fp16


@pytest.mark.parametrize("norm", ["rms", "layer"])
@dtypes
def test_adaln_is_its_formula(norm: str, dtype: torch.dtype) -> None:
    x, update = randn(2, 5, 8, dtype=dtype), randn(2, 5, 8, dtype=dtype, seed=1)
    scale, shift, gate = (randn(2, 8, dtype=dtype, seed=s) for s in (2, 3, 4))
    weight = randn(8, dtype=dtype, seed=5)
    residual, out = ops.adaln(x, scale, shift, update=update, gate=gate, weight=weight, norm=norm)
    want_residual = x.double() + gate.double()[:, None] * update.double()
    wide = want_residual - (want_residual.mean(-1, keepdim=True) if norm == "layer" else 0)
    unit = wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
    close(residual, want_residual, dtype)
    torch.testing.assert_close(
        out.double(),
        unit * (1 + scale.double()[:, None]) + shift.double()[:, None],
        atol=5 * TOLERANCE[dtype],
        rtol=5 * TOLERANCE[dtype],
    )


def test_adaln_without_its_options() -> None:
    x, scale = randn(2, 3, 8), randn(2, 8, seed=1)
    residual, out = ops.adaln(x, scale)
    assert torch.equal(residual, x)
    torch.testing.assert_close(out, ops.rms_norm(x) * (1 + scale[:, None]))
    residual, _ = ops.adaln(x, scale, update=x)
    assert torch.equal(residual, 2 * x)
    with pytest.raises(FAEError, match="'rms' or 'layer'"):
        ops.adaln(x, scale, norm="batch")


@pytest.mark.parametrize("options", [(), ("shift",), ("weight",), ("shift", "weight", "update")])
@dtypes
def test_adaln_is_the_same_where_nothing_is_differentiated(options: tuple[str, ...], dtype: torch.dtype) -> None:
    """It takes fewer passes over memory there, and must leave what it was given alone."""
    shapes = {"shift": (2, 8), "weight": (8,), "update": (2, 5, 8)}
    given = {name: randn(*shapes[name], dtype=dtype, seed=i) for i, name in enumerate(options)}
    x, scale = randn(2, 5, 8, dtype=dtype), randn(2, 8, dtype=dtype, seed=9)
    kept = [tensor.clone() for tensor in (x, scale, *given.values())]
    want = ops.adaln(x, scale, gate=scale, **given)
    with torch.no_grad():
        got = ops.adaln(x, scale, gate=scale, **given)
    assert torch.equal(got[0], want[0]) and got[1].dtype == dtype
    torch.testing.assert_close(got[1], want[1], atol=5 * TOLERANCE[dtype], rtol=5 * TOLERANCE[dtype])
    assert all(torch.equal(a, b) for a, b in zip(kept, (x, scale, *given.values()), strict=True))


@dtypes
@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_rope_turns_each_pair_by_its_angle(dtype: torch.dtype, layout: str) -> None:
    x, angles = randn(2, 3, 5, 8, dtype=dtype), randn(5, 4, seed=1)
    got = ops.apply_rope(x, angles.cos(), angles.sin(), layout)
    for n in range(5):
        for i in range(4):
            pair = (2 * i, 2 * i + 1) if layout == "interleaved" else (i, i + 4)
            numbers = torch.complex(x[..., n, pair[0]].double(), x[..., n, pair[1]].double())
            turned = numbers * complex(math.cos(angles[n, i]), math.sin(angles[n, i]))
            want = torch.view_as_real(turned)
            torch.testing.assert_close(
                got[..., n, list(pair)].double(), want, atol=2 * TOLERANCE[dtype], rtol=2 * TOLERANCE[dtype]
            )


def test_rope_keeps_lengths_and_is_undone_by_the_opposite_angle() -> None:
    x, angles = randn(1, 2, 6, 8), randn(6, 4, seed=1)
    turned = ops.apply_rope(x, angles.cos(), angles.sin())
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(ops.apply_rope(turned, angles.cos(), -angles.sin()), x)


def test_rope_tables_may_differ_by_sample() -> None:
    x, angles = randn(3, 2, 4, 8), randn(3, 1, 4, 4, seed=1)
    got = ops.apply_rope(x, angles.cos(), angles.sin())
    for b in range(3):
        alone = ops.apply_rope(x[b : b + 1], angles[b, 0].cos(), angles[b, 0].sin())
        torch.testing.assert_close(got[b : b + 1], alone)


@pytest.mark.parametrize("start", [0, 1, 2])
def test_rope_takes_any_strides_and_agrees_with_its_reference(start: int) -> None:
    x, angles = randn(2, 3, 5, 11)[..., start : start + 8].requires_grad_(), randn(5, 4, seed=1)
    got = ops.apply_rope(x, angles.cos(), angles.sin())
    with ops.backend("reference"):
        want = ops.apply_rope(x, angles.cos(), angles.sin())
    torch.testing.assert_close(got, want)
    weight = torch.arange(got.numel(), dtype=got.dtype).view_as(got)
    gradients = [torch.autograd.grad((weight * y).sum(), x)[0] for y in (got, want)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_qk_norm_rope_is_its_parts(layout: str) -> None:
    qkv, angles = randn(2, 5, 3, 4, 8), randn(5, 4, seed=1)
    q_weight, k_weight = randn(8, seed=2), randn(8, seed=3)
    tables = (angles.cos(), angles.sin())
    q, k, v = ops.qk_norm_rope(qkv, *tables, q_weight=q_weight, k_weight=k_weight, layout=layout)
    for got, place, weight in ((q, 0, q_weight), (k, 1, k_weight)):
        heads = qkv[:, :, place].transpose(1, 2)
        torch.testing.assert_close(got, ops.apply_rope(ops.rms_norm(heads, weight), *tables, layout))
    assert torch.equal(v, qkv[:, :, 2].transpose(1, 2))
    plain = ops.qk_norm_rope(qkv)
    assert all(torch.equal(plain[i], qkv[:, :, i].transpose(1, 2)) for i in range(3))
    rotated = ops.qk_norm_rope(qkv, *tables, layout=layout)
    for i in range(2):
        torch.testing.assert_close(rotated[i], ops.apply_rope(qkv[:, :, i].transpose(1, 2), *tables, layout))
    assert torch.equal(rotated[2], v)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("kind", "queries", "keys", "heads", "key_heads"),
    [
        ("plain", 5, 5, 2, 2),
        ("plain", 3, 7, 2, 2),
        ("plain", 1, 1, 1, 1),
        ("grouped", 5, 6, 4, 2),
        ("scale", 4, 4, 2, 2),
        ("causal", 6, 6, 2, 2),
        ("mask", 4, 6, 2, 2),
        ("bias", 4, 6, 2, 2),
    ],
)
def test_attention_is_its_definition(
    backend: str, dtype: torch.dtype, kind: str, queries: int, keys: int, heads: int, key_heads: int
) -> None:
    q = randn(2, heads, queries, 8, dtype=dtype)
    k, v = (randn(2, key_heads, keys, 8, dtype=dtype, seed=s) for s in (1, 2))
    allowed = None
    options: dict[str, object] = {}
    if kind == "causal":
        options["causal"] = True
        allowed = torch.tensor([[column <= row for column in range(keys)] for row in range(queries)])
    if kind == "mask":
        allowed = torch.rand(queries, keys, generator=torch.Generator().manual_seed(3)) < 0.6
        allowed[:, 0] = True
        options["mask"] = allowed
    bias = randn(queries, keys, seed=4) if kind == "bias" else None
    if bias is not None:
        options["mask"] = bias.to(dtype)
    if kind == "scale":
        options["scale"] = 0.3
    want = naive_attention(
        q, k, v, 0.3 if kind == "scale" else 8**-0.5, allowed, bias if bias is None else bias.to(dtype).double()
    )
    close(ops.attention(q, k, v, backend=backend, **options), want, dtype)


@pytest.mark.parametrize("causal", [False, True])
def test_backends_agree_on_gradients(causal: bool) -> None:
    gradients = []
    for backend in CPU_BACKENDS:
        leaves = [randn(2, 2, 6, 8, dtype=torch.float32, seed=s).requires_grad_() for s in range(3)]
        ops.attention(*leaves, causal=causal, backend=backend).square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    inputs = [randn(1, 1, 3, 4, seed=s).requires_grad_() for s in range(3)]
    angles = randn(3, 2, seed=3)
    tables = (angles.cos(), angles.sin())
    assert torch.autograd.gradcheck(lambda q, k, v: ops.rope_attention(q, k, v, *tables, backend="sdpa"), inputs)
    x, weight = randn(2, 3, 4).requires_grad_(), randn(4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(ops.rms_norm, (x, weight))
    scale, shift, gate = (randn(2, 4, seed=s).requires_grad_() for s in (2, 3, 4))
    assert torch.autograd.gradcheck(
        lambda *a: ops.adaln(a[0], a[1], a[2], update=a[0].sin(), gate=a[3], weight=a[4]),
        (x, scale, shift, gate, weight),
    )


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_rope_attention_sees_only_relative_positions(layout: str) -> None:
    """With angles proportional to the position, shifting every position changes nothing."""
    q, k, v = (randn(1, 2, 6, 8, seed=s) for s in range(3))
    rates = torch.tensor([1.0, 0.3, 0.1, 0.01], dtype=torch.float64)

    def attended(start: int) -> Tensor:
        angles = (torch.arange(6, dtype=torch.float64) + start)[:, None] * rates
        return ops.rope_attention(q, k, v, angles.cos(), angles.sin(), layout=layout, backend="reference")

    # The reference computes scores in fp32.
    torch.testing.assert_close(attended(0), attended(37), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(attended(0), ops.attention(q, k, v, backend="reference"), atol=1e-3)


def test_causal_rows_do_not_see_the_future() -> None:
    q, k, v = (randn(1, 1, 5, 8, dtype=torch.float32, seed=s) for s in range(3))
    changed = v.clone()
    changed[:, :, 3:] += 100
    for backend in CPU_BACKENDS:
        before, after = (ops.attention(q, k, x, causal=True, backend=backend) for x in (v, changed))
        torch.testing.assert_close(before[:, :, :3], after[:, :, :3])
        assert not torch.allclose(before[:, :, 3:], after[:, :, 3:])


@pytest.mark.parametrize(
    ("shapes", "options", "complaint"),
    [
        (((1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4)), {}, "do not fit"),
        (((1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3, 5)), {}, "do not fit"),
        (((1, 3, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)), {}, "not a multiple"),
        (((1, 2, 3, 4),) * 3, {"causal": True, "mask": torch.ones(3, 3).bool()}, "not both"),
        (((1, 2, 3, 4),) * 3, {"mask": torch.ones(3, 3, dtype=torch.long)}, "a mask is boolean"),
    ],
)
def test_attention_refuses_what_does_not_fit(shapes, options: dict, complaint: str) -> None:
    with pytest.raises(FAEError, match=complaint):
        ops.attention(*(torch.zeros(shape) for shape in shapes), **options)


def test_other_ops_refuse_what_does_not_fit() -> None:
    with pytest.raises(FAEError, match="weight has shape"):
        ops.rms_norm(torch.zeros(2, 4), torch.ones(3))
    with pytest.raises(FAEError, match="do not fit x"):
        ops.apply_rope(torch.zeros(1, 1, 3, 8), torch.zeros(3, 8), torch.zeros(3, 8))
    with pytest.raises(FAEError, match="'interleaved' or 'half'"):
        ops.apply_rope(torch.zeros(1, 1, 3, 8), torch.zeros(3, 4), torch.zeros(3, 4), "other")


QKV = tuple(torch.zeros(1, 1, 4, 8) for _ in range(3))


def chosen() -> str:
    return ops.explain("attention", *QKV).backend


def test_the_callers_wish_goes_before_the_pin_and_the_pin_before_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FAE_OPS_BACKEND", raising=False)
    automatic = chosen()
    monkeypatch.setenv("FAE_OPS_BACKEND", "reference")
    assert chosen() == "reference"
    with ops.backend("sdpa-math"):
        assert chosen() == "sdpa-math"
        assert ops.explain("attention", *QKV, backend="sdpa").backend == "sdpa"
        with ops.backend("reference"):
            assert chosen() == "reference"
        assert chosen() == "sdpa-math"
    assert chosen() == "reference"
    monkeypatch.setenv("FAE_OPS_BACKEND", "auto")
    assert chosen() == automatic


def test_a_pin_is_released_by_an_error() -> None:
    before = chosen()
    with pytest.raises(RuntimeError), ops.backend("reference"):
        raise RuntimeError
    assert chosen() == before


def test_an_explanation_gives_reasons() -> None:
    explanation = ops.explain("attention", *QKV)
    assert explanation.reason
    assert explanation.rejected
    assert all(explanation.rejected.values())
    assert explanation.backend not in explanation.rejected
    for name in explanation.rejected:
        assert f"not {name}" in str(explanation)
    for op in ("rms_norm", "adaln", "apply_rope", "qk_norm_rope"):
        assert ops.explain(op, QKV[0]).backend in ops.BACKENDS
    with pytest.raises(UnknownName, match="attention"):
        ops.explain("atention", *QKV)


def test_a_backend_that_cannot_run_raises_and_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sdpa-cudnn", "sdpa-efficient"):
        with pytest.raises(FAEError, match=f"{name}.*was asked for but cannot run: .*cuda"):
            ops.attention(*QKV, backend=name)
    with pytest.raises(FAEError, match="takes no mask"):
        ops.attention(*QKV, mask=torch.ones(4, 4).bool(), backend="sdpa-flash")
    with pytest.raises(UnknownName, match="did you mean sdpa"):
        ops.attention(*QKV, backend="sdpaa")
    with pytest.raises(UnknownName):
        ops.backend("nothing")
    monkeypatch.setenv("FAE_OPS_BACKEND", "no such thing")
    with pytest.raises(UnknownName):
        ops.attention(*QKV)


def test_xformers_runs_or_says_why_not() -> None:
    """Its wheel imports on machines where its operators do not run; either outcome has to be an honest one."""
    try:
        out = ops.attention(*(randn(1, 2, 4, 8, dtype=torch.float32, seed=s) for s in range(3)), backend="xformers")
    except FAEError as error:
        assert "'xformers' was asked for but cannot run: " in str(error)
        return
    want = naive_attention(*(randn(1, 2, 4, 8, seed=s) for s in range(3)), scale=8**-0.5)
    close(out, want, torch.float32)


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("weight_dtype", [None, torch.float32, torch.bfloat16])
def test_on_a_gpu_eager_norms_have_the_references_types(x_dtype: torch.dtype, weight_dtype: torch.dtype | None) -> None:
    """torch's own RMSNorm stands in for the reference there; traced with fake tensors."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(2, 3, 8, dtype=x_dtype, device="cuda")
        weight = None if weight_dtype is None else torch.empty(8, dtype=weight_dtype, device="cuda")
        scale = torch.empty(2, 8, dtype=x_dtype, device="cuda")
        expected = ops.rms_norm(x, weight, backend="reference")
        got = ops.rms_norm(x, weight)
        assert (got.dtype, got.shape, got.device) == (expected.dtype, expected.shape, expected.device)
        expected, got = (ops.adaln(x, scale, weight=weight, backend=b)[1] for b in ("reference", None))
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)


def test_torchs_own_norm_is_the_reference() -> None:
    x, weight = torch.randn(4, 5, 24, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 2, 24)
    own = torch.nn.functional.rms_norm(x, (24,), weight, 1e-6)
    torch.testing.assert_close(own, ops.rms_norm(x, weight, backend="reference"), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_an_op_makes_the_gradient_of_the_bias_of_the_projection_before_it(compiled: bool) -> None:
    """As the projection itself would, for every op that takes a bias."""
    x, rows = torch.randn(2, 3, 8), torch.randn(2, 8)
    calls = {
        "swiglu": (16, lambda y, b: ops.swiglu(y, b)),
        "adaln": (8, lambda y, b: ops.adaln(x, rows, update=y, update_bias=b, gate=rows)[1]),
        "qk_norm_rope": (24, lambda y, b: sum(ops.qk_norm_rope(y.view(2, 3, 3, 2, 4), bias=b))),
        "self_attention": (24, lambda y, b: ops.self_attention(y.view(2, 3, 3, 2, 4), bias=b)),
    }
    for name, (width, op) in calls.items():
        linear = torch.nn.Linear(8, width)
        call = torch.compile(op, fullgraph=True, backend="aot_eager") if compiled else op
        want = torch.autograd.grad(op(linear(x), None).square().sum(), list(linear.parameters()))
        y = torch.nn.functional.linear(x, linear.weight, linear.bias.detach())
        got = torch.autograd.grad(call(y, linear.bias).square().sum(), list(linear.parameters()))
        for one, other in zip(got, want, strict=True):
            torch.testing.assert_close(one, other, msg=name)


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_adaln_without_a_scale_is_a_residual_and_a_norm(norm: str) -> None:
    x, update, weight = torch.randn(2, 3, 8), torch.randn(2, 3, 8), torch.randn(8)
    plain = reference.rms_norm if norm == "rms" else reference.layer_norm
    for backend in (None, "reference"):
        residual, out = ops.adaln(x, None, update=update, weight=weight, norm=norm, backend=backend)
        assert torch.equal(residual, x + update)
        torch.testing.assert_close(out, plain(x + update, weight, 1e-6))
