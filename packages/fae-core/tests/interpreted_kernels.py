"""Every kernel by itself in triton's interpreter, in fp16 and fp32: values and gradients against double precision.

`test_ops_triton.py` runs this file in a process of its own, because TRITON_INTERPRET=1 has to be set before triton is
imported; pytest does not collect it by itself.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fae_core.ops import reference, triton
from fae_core.ops.triton import attention, qk_norm_rope, row_norm, swiglu

assert triton.INTERPRETED, "set TRITON_INTERPRET=1"

LIMITS = {torch.float16: 1e-3, torch.float32: 2e-6}
dtypes = pytest.mark.parametrize("dtype", LIMITS, ids=str)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(got: Tensor, want: Tensor, dtype: torch.dtype) -> bool:
    """Whether got is want up to rounding, by their relative L2 distance."""
    return got.shape == want.shape and bool((got.double() - want).norm() <= LIMITS[dtype] * want.norm() + 1e-30)


# Exact tiles and others; a row in one part and divided among two and four warps.
ROW_NORMS = [
    *((40, kind, layer) for layer in ("rms", "layer") for kind in ("update gate scale shift weight bias", "")),
    *((300, kind, "rms") for kind in ("weight", "update weight bias", "scale shift", "update gate scale")),
    (300, "scale shift", "layer"),
    (1, "update weight", "rms"),
    (1152, "weight", "rms"),
    (1152, "update gate scale shift weight bias", "rms"),
    (1152, "update gate scale weight", "layer"),
    (1544, "update gate scale shift weight bias", "rms"),
]


@dtypes
@pytest.mark.parametrize(("width", "kind", "norm"), ROW_NORMS)
def test_row_norms_and_their_gradients(width: int, kind: str, norm: str, dtype: torch.dtype) -> None:
    batch, tokens, layer = 2, 11 if width < 1000 else 3, norm == "layer"
    made = {
        name: randn(*((width,) if name in ("weight", "bias") else (batch, width)), seed=seed, dtype=dtype)
        for seed, name in enumerate(("gate", "scale", "shift", "weight", "bias"))
        if name in kind
    }
    if "update" in kind:
        made["update"] = randn(batch, tokens, width, seed=7, dtype=dtype)
    x, operands = randn(batch, tokens, width, seed=8, dtype=dtype), row_norm.Operands(**made)
    if width == 1:
        x = x + torch.where(x >= 0, 2, -2)  # a row of one number has no gradient, and near 0 no precision
    residual, out, stats = row_norm.forward(x, operands, layer, 1e-3, dtype, dtype)
    normed = x if residual is None else residual
    leaves = {name: t.double().requires_grad_() for name, t in {"x": x, **made}.items()}
    exact = leaves["x"]
    if "update" in made:
        # The bias is part of the update already: it is here for its gradient alone.
        update = leaves["update"] + (leaves["bias"] - leaves["bias"].detach() if "bias" in made else 0)
        exact = exact + (leaves["gate"][:, None] * update if "gate" in made else update)
        assert close(residual, exact.detach(), dtype)
        exact = exact + (residual.double() - exact).detach()  # the norm is of the rounded residual
    rows = exact - exact.mean(-1, keepdim=True) if layer else exact
    want = rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + 1e-3) * leaves.get("weight", 1)
    want = want * (1 + leaves["scale"][:, None] if "scale" in made else 1)
    want = want + (leaves["shift"][:, None] if "shift" in made else 0)
    assert close(out, want.detach(), dtype)
    dout, dresidual = (randn(batch, tokens, width, seed=s, dtype=dtype) for s in (20, 21))
    ahead = [dout.double()] + ([dresidual.double()] if "update" in made else [])
    wanted = torch.autograd.grad([want, exact][: len(ahead)], list(leaves.values()), ahead)
    dx, found = row_norm.backward(dout, dresidual if "update" in made else None, normed, stats, operands, layer, dtype)
    got = {"x": dx, **{name: t for name, t in found._asdict().items() if t is not None}}
    assert set(got) == set(leaves)
    for name, gradient in zip(leaves, wanted, strict=True):
        small = 1e-3 if width == 1 else 0  # what is left of numbers that cancel
        assert close(got[name], gradient, dtype) or (got[name] - gradient).norm() <= small, name


# Heads of even and odd number, dimensions with exact tiles and others, tables of all samples or of each.
HEADS = [
    (2, 72, "q-norm k-norm rope bias", "interleaved"),
    (2, 72, "q-norm k-norm rope bias", "half"),
    (3, 64, "rope", "half"),
    (24, 64, "q-norm k-norm rope bias", "interleaved"),
    (1, 2, "q-norm k-norm rope bias", "interleaved"),
    (2, 40, "rope samples bias", "interleaved"),
    (5, 10, "k-norm", "half"),
    (2, 24, "q-norm rope bias", "half"),
    (1, 256, "q-norm k-norm rope samples", "half"),
    (2, 8, "bias", "interleaved"),
]


@dtypes
@pytest.mark.parametrize(("heads", "width", "kind", "layout"), HEADS)
def test_norm_and_rotation_of_q_and_k_and_the_packed_gradient(
    heads: int, width: int, kind: str, layout: str, dtype: torch.dtype
) -> None:
    batch, tokens = 2, 5
    qkv = randn(batch, tokens, 3, heads, width, dtype=dtype)
    weights = tuple(
        1 + 0.3 * randn(width, seed=s, dtype=dtype) if name in kind else None
        for s, name in enumerate(("q-norm", "k-norm"))
    )
    angles = randn(*((batch, 1) if "samples" in kind else ()), tokens, width // 2, seed=3)
    tables = (angles.cos(), angles.sin()) if "rope" in kind else None
    q, k, _ = qkv.unbind(2)
    got = qk_norm_rope.forward([q, k], weights, tables, layout == "interleaved", 1e-3)
    leaves = [qkv.double().requires_grad_(), *(w.double().requires_grad_() for w in weights if w is not None)]
    exact, normed = [], leaves[1:]
    for i in range(2):
        x = leaves[0][:, :, i].transpose(1, 2)
        x = reference.rms_norm(x, normed.pop(0), 1e-3) if weights[i] is not None else x
        x = reference.apply_rope(x, *(t.double() for t in tables), layout) if tables else x
        exact.append(x.transpose(1, 2))
    assert all(close(one, other.detach(), dtype) for one, other in zip(got, exact, strict=True))
    dys = [randn(batch, tokens, heads, width, seed=s, dtype=dtype) for s in (4, 5, 6)]
    wanted = torch.autograd.grad([*exact, leaves[0][:, :, 2]], leaves, [d.double() for d in dys])
    bias = dtype if "bias" in kind else None
    dqkv, dqw, dkw, dbias = qk_norm_rope.backward(dys, [q, k], weights, tables, layout == "interleaved", 1e-3, bias)
    assert close(dqkv, wanted[0], dtype)
    for one, other in zip([d for d in (dqw, dkw) if d is not None], wanted[1:], strict=True):
        assert close(one, other, dtype)
    assert (dbias is None) == (bias is None)
    assert dbias is None or close(dbias, wanted[0].sum((0, 1)).flatten(), dtype)
    (turned,) = qk_norm_rope.forward([q], (None, None), tables, layout == "interleaved", 0.0, inverse=True)
    if tables:
        back = reference.apply_rope(q.transpose(1, 2).double(), tables[0].double(), -tables[1].double(), layout)
        assert close(turned, back.transpose(1, 2), dtype)


@dtypes
@pytest.mark.parametrize(
    ("queries", "keys", "width"), [(20, 20, 72), (1, 1, 64), (130, 150, 72), (256, 256, 64), (7, 128, 64)]
)
def test_attention(queries: int, keys: int, width: int, dtype: torch.dtype) -> None:
    q = randn(2, queries, 2, width, dtype=dtype)
    k, v = randn(2, keys, 3, 2, width, seed=1, dtype=dtype)[:, :, 1:].unbind(2)
    for scale in (0.3, -0.1):
        out, lse = attention.forward(q, k, v, scale)
        heads = [x.double().transpose(1, 2) for x in (q, k, v)]
        scores = heads[0] @ heads[1].mT * scale
        want = (scores.softmax(-1) @ heads[2]).transpose(1, 2)
        assert close(out, want, dtype)
        assert (lse - scores.logsumexp(-1)).abs().max() < 1e-2 * LIMITS[dtype] * 1e3


@dtypes
@pytest.mark.parametrize("width", [3, 64, 1100])
def test_swiglu_and_the_bias_of_its_projection(width: int, dtype: torch.dtype) -> None:
    x, bias = randn(3, 7, 2 * width, dtype=dtype), randn(2 * width, dtype=dtype)
    leaf = x.double().requires_grad_()
    gate, up = leaf.chunk(2, dim=-1)
    want = torch.nn.functional.silu(gate) * up
    assert close(swiglu.forward(x), want.detach(), dtype)
    dy = randn(3, 7, width, seed=1, dtype=dtype)
    (wanted,) = torch.autograd.grad(want, leaf, dy.double())
    dx, dbias = swiglu.backward(dy, x, bias)
    assert close(dx, wanted, dtype)
    assert close(dbias, wanted.sum((0, 1)), dtype)
    assert swiglu.backward(dy, x, None)[1] is None
