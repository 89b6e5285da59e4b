"""Gradients of the fused attention.

They are computed from queries and keys that are normed and rotated beforehand (by qk_norm_rope.py, whose backward pass
follows): one kernel for dq, which also computes sum(dout * out), then one for dk and dv. Each output element has one
writer, so there are no atomic additions and two runs agree bit for bit. Tensors are (B, N, H, D).
"""

# Triton compiles the functions under @triton.jit by its own rules: arguments become constants, and an `if` on one is
# decided when compiling.
# pyright: reportPossiblyUnboundVariable=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fae_core.ops.triton import configs, qk_norm_rope
from fae_core.ops.triton.launch import dense_rows, launch
from fae_core.ops.triton.qk_norm_rope import Tables, Weights
from fae_core.ops.triton.rope_attention import LOG2_E, constants, load_tile, sizes, store_tile, strides


@triton.jit
def _dq(
    q_ptr, k_ptr, v_ptr, out_ptr, dout_ptr, lse_ptr, dq_ptr, delta_ptr, queries, keys, heads,
    q_sample, q_token, q_head, k_sample, k_token, k_head, v_sample, v_token, v_head,
    dq_sample, dq_token, dq_head, scale,
    D: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """Some queries of a head against all its keys: dq, and delta = sum(dout * out) of each row."""
    # The grid is one-dimensional, so that the tiles of a head run together and any batch fits.
    tiles = tl.cdiv(queries, ROWS)
    tile, which = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    sample, head = (which // heads).to(tl.int64), which % heads
    q_ptr += tl.multiple_of(sample * q_sample + head * q_head, ALIGN)
    k_ptr += tl.multiple_of(sample * k_sample + head * k_head, ALIGN)
    v_ptr += tl.multiple_of(sample * v_sample + head * v_head, ALIGN)
    dq_ptr += tl.multiple_of(sample * dq_sample + head * dq_head, ALIGN)
    dense = (sample * queries * heads + head) * D
    stats = (sample * heads + head) * queries
    dtype: tl.constexpr = q_ptr.dtype.element_ty

    row = tile * ROWS + tl.arange(0, ROWS)
    there = row < queries
    q_start, out_start = tl.multiple_of(row * q_token, ALIGN), tl.multiple_of(row * heads * D, 8)
    q_main = load_tile(q_ptr, q_start, there, 0, MAIN, D)
    dout_main = load_tile(dout_ptr + dense, out_start, there, 0, MAIN, D)
    out = load_tile(out_ptr + dense, out_start, there, 0, MAIN, D)
    delta = tl.sum(dout_main.to(tl.float32) * out.to(tl.float32), axis=1)
    dq_main = tl.zeros((ROWS, MAIN), tl.float32)
    if REST:
        q_rest = load_tile(q_ptr, q_start, there, MAIN, REST, D)
        dout_rest = load_tile(dout_ptr + dense, out_start, there, MAIN, REST, D)
        out = load_tile(out_ptr + dense, out_start, there, MAIN, REST, D)
        delta += tl.sum(dout_rest.to(tl.float32) * out.to(tl.float32), axis=1)
        dq_rest = tl.zeros((ROWS, REST), tl.float32)
    tl.store(delta_ptr + stats + row, delta, mask=there)
    lse = tl.load(lse_ptr + stats + row, mask=there, other=0.0)

    for first in range(0, keys, COLUMNS):
        key = first + tl.arange(0, COLUMNS)
        valid = key < keys
        k_start, v_start = tl.multiple_of(key * k_token, ALIGN), tl.multiple_of(key * v_token, ALIGN)
        k_main, v_main = load_tile(k_ptr, k_start, valid, 0, MAIN, D), load_tile(v_ptr, v_start, valid, 0, MAIN, D)
        scores = tl.dot(q_main, tl.trans(k_main), input_precision="ieee")
        dweights = tl.dot(dout_main, tl.trans(v_main), input_precision="ieee")
        if REST:
            k_rest, v_rest = (
                load_tile(k_ptr, k_start, valid, MAIN, REST, D),
                load_tile(v_ptr, v_start, valid, MAIN, REST, D),
            )
            scores = tl.dot(q_rest, tl.trans(k_rest), scores, input_precision="ieee")
            dweights = tl.dot(dout_rest, tl.trans(v_rest), dweights, input_precision="ieee")
        weights = tl.exp2(tl.where(valid[None, :], scores * (scale * LOG2_E), float("-inf")) - lse[:, None])
        dscores = (weights * (dweights - delta[:, None])).to(dtype)
        dq_main = tl.dot(dscores, k_main, dq_main, input_precision="ieee")
        if REST:
            dq_rest = tl.dot(dscores, k_rest, dq_rest, input_precision="ieee")
    dq_start = tl.multiple_of(row * dq_token, ALIGN)
    store_tile(dq_ptr, dq_start, there, dq_main * scale, 0, MAIN, D)
    if REST:
        store_tile(dq_ptr, dq_start, there, dq_rest * scale, MAIN, REST, D)


@triton.jit
def _dkv(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, queries, keys, heads,
    q_sample, q_token, q_head, k_sample, k_token, k_head, v_sample, v_token, v_head,
    dk_sample, dk_token, dk_head, dv_sample, dv_token, dv_head, scale,
    D: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """Some keys of a head against all its queries: dk and dv. Scores are held transposed, (COLUMNS, ROWS)."""
    tiles = tl.cdiv(keys, COLUMNS)
    tile, which = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    sample, head = (which // heads).to(tl.int64), which % heads
    q_ptr += tl.multiple_of(sample * q_sample + head * q_head, ALIGN)
    k_ptr += tl.multiple_of(sample * k_sample + head * k_head, ALIGN)
    v_ptr += tl.multiple_of(sample * v_sample + head * v_head, ALIGN)
    dk_ptr += tl.multiple_of(sample * dk_sample + head * dk_head, ALIGN)
    dv_ptr += tl.multiple_of(sample * dv_sample + head * dv_head, ALIGN)
    dout_ptr += (sample * queries * heads + head) * D
    stats = (sample * heads + head) * queries
    dtype: tl.constexpr = q_ptr.dtype.element_ty

    key = tile * COLUMNS + tl.arange(0, COLUMNS)
    valid = key < keys
    k_start, v_start = tl.multiple_of(key * k_token, ALIGN), tl.multiple_of(key * v_token, ALIGN)
    k_main, v_main = load_tile(k_ptr, k_start, valid, 0, MAIN, D), load_tile(v_ptr, v_start, valid, 0, MAIN, D)
    dk_main, dv_main = tl.zeros((COLUMNS, MAIN), tl.float32), tl.zeros((COLUMNS, MAIN), tl.float32)
    if REST:
        k_rest, v_rest = (
            load_tile(k_ptr, k_start, valid, MAIN, REST, D),
            load_tile(v_ptr, v_start, valid, MAIN, REST, D),
        )
        dk_rest, dv_rest = tl.zeros((COLUMNS, REST), tl.float32), tl.zeros((COLUMNS, REST), tl.float32)

    for first in range(0, queries, ROWS):
        row = first + tl.arange(0, ROWS)
        there = row < queries
        q_start, out_start = tl.multiple_of(row * q_token, ALIGN), tl.multiple_of(row * heads * D, 8)
        q_main, dout_main = (
            load_tile(q_ptr, q_start, there, 0, MAIN, D),
            load_tile(dout_ptr, out_start, there, 0, MAIN, D),
        )
        # Rows beyond the last get an infinite lse: their weights are 0.
        lse = tl.load(lse_ptr + stats + row, mask=there, other=float("inf"))
        delta = tl.load(delta_ptr + stats + row, mask=there, other=0.0)
        scores = tl.dot(k_main, tl.trans(q_main), input_precision="ieee")
        dweights = tl.dot(v_main, tl.trans(dout_main), input_precision="ieee")
        if REST:
            q_rest, dout_rest = (
                load_tile(q_ptr, q_start, there, MAIN, REST, D),
                load_tile(dout_ptr, out_start, there, MAIN, REST, D),
            )
            scores = tl.dot(k_rest, tl.trans(q_rest), scores, input_precision="ieee")
            dweights = tl.dot(v_rest, tl.trans(dout_rest), dweights, input_precision="ieee")
        weights = tl.exp2(scores * (scale * LOG2_E) - lse[None, :])
        dscores = (weights * (dweights - delta[None, :])).to(dtype)
        weights = weights.to(dtype)
        dv_main = tl.dot(weights, dout_main, dv_main, input_precision="ieee")
        dk_main = tl.dot(dscores, q_main, dk_main, input_precision="ieee")
        if REST:
            dv_rest = tl.dot(weights, dout_rest, dv_rest, input_precision="ieee")
            dk_rest = tl.dot(dscores, q_rest, dk_rest, input_precision="ieee")
    dk_start, dv_start = tl.multiple_of(key * dk_token, ALIGN), tl.multiple_of(key * dv_token, ALIGN)
    store_tile(dk_ptr, dk_start, valid, dk_main * scale, 0, MAIN, D)
    store_tile(dv_ptr, dv_start, valid, dv_main, 0, MAIN, D)
    if REST:
        store_tile(dk_ptr, dk_start, valid, dk_rest * scale, MAIN, REST, D)
        store_tile(dv_ptr, dv_start, valid, dv_rest, MAIN, REST, D)


def backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    weights: Weights,
    tables: Tables,
    interleaved: bool,
    scale: float,
    eps: float,
    grads: Sequence[Tensor],
) -> tuple[Tensor | None, Tensor | None]:
    """Write the gradients of q, k, v to `grads`; returns those of the weights.

    Args:
        dout: Gradient of out, (B, N, H, D).
        q: As for `rope_attention.forward`.
        k: As for `rope_attention.forward`.
        v: As for `rope_attention.forward`.
        out: As `rope_attention.forward` returned it.
        lse: As `rope_attention.forward` returned it.
        weights: As for `rope_attention.forward`.
        tables: As for `rope_attention.forward`.
        interleaved: As for `rope_attention.forward`.
        scale: As for `rope_attention.forward`.
        eps: As for `rope_attention.forward`.
        grads: Where to write the gradients of q, k, v; their last stride is 1.

    Returns:
        The gradients of the weights of q and k; None where there is no weight.
    """
    q, k, v = dense_rows(q, k, v)
    dq, dk, dv = grads
    if weights == (None, None) and tables is None:
        _attention_backward(dout, q, k, v, out, lse, scale, dq, dk, dv)
        return None, None
    prepared = [
        qk_norm_rope.forward([x], (w, None), tables, interleaved, eps, dtype=x.dtype)[0]
        for x, w in zip((q, k), weights, strict=True)
    ]
    # The weights' gradients are sums over all tokens, to which every rounding adds: they are computed from fp32.
    turned = [
        torch.empty_like(x, dtype=x.dtype if w is None else torch.float32)
        for x, w in zip(prepared, weights, strict=True)
    ]
    turned_q, turned_k = prepared
    _attention_backward(dout, turned_q, turned_k, v, out, lse, scale, turned[0], turned[1], dv)
    dweights = [
        qk_norm_rope.backward([d], [x], (w, None), tables, interleaved, eps, [dx])[0]
        for d, x, w, dx in zip(turned, (q, k), weights, (dq, dk), strict=True)
    ]
    return dweights[0], dweights[1]


def _attention_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
) -> None:
    batch, queries, heads, width = q.shape
    config = configs.attention_backward()
    delta = torch.empty_like(lse)
    dout = dout.contiguous()
    shared = {"q_ptr": q, "k_ptr": k, "v_ptr": v, "dout_ptr": dout, "lse_ptr": lse, "delta_ptr": delta, **sizes(q, k)}
    launch(
        _dq,
        (triton.cdiv(queries, config.rows) * batch * heads,),
        {**shared, "out_ptr": out, "dq_ptr": dq, **strides(q=q, k=k, v=v, dq=dq), "scale": scale},
        constants(width, config, q, k, v, dq),
        config,
    )
    launch(
        _dkv,
        (triton.cdiv(k.shape[1], config.columns) * batch * heads,),
        {**shared, "dk_ptr": dk, "dv_ptr": dv, **strides(q=q, k=k, v=v, dk=dk, dv=dv), "scale": scale},
        constants(width, config, q, k, v, dk, dv),
        config,
    )
