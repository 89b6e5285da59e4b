"""Norm and rotation of queries and keys, and attention, in one kernel. Its gradients: rope_attention_backward.py.

One block serves one head of a sample. It norms and rotates the head's keys once, keeps all of them and the values (at
most 256, in two halves), and loops over the queries. A head dimension of 72 is held as tiles of 64 and 16 (8 of them
zeros), which saves most of what padding to 128 would waste.

Products take the inputs' dtype and accumulate in fp32; everything else is fp32. Tensors are (B, N, H, D).
"""

# Triton compiles the functions under @triton.jit by its own rules: arguments become constants, and an `if` on one is
# decided when compiling.
# pyright: reportPossiblyUnboundVariable=false, reportArgumentType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fae_core.ops.triton import configs
from fae_core.ops.triton.launch import alignment, architecture, dense_rows, launch
from fae_core.ops.triton.qk_norm_rope import Tables, Weights

_MAIN = 64
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_tile(ptr, start, valid, FIRST: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr):
    """Columns FIRST to FIRST + WIDTH of some rows; zeros beyond D and in invalid rows."""
    column = FIRST + tl.arange(0, WIDTH)[None, :]
    return tl.load(ptr + start[:, None] + column, mask=valid[:, None] & (column < D), other=0.0)


@triton.jit
def store_tile(ptr, start, valid, x, FIRST: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr):
    """Write the same columns of valid rows."""
    column = FIRST + tl.arange(0, WIDTH)[None, :]
    tl.store(ptr + start[:, None] + column, x, mask=valid[:, None] & (column < D))


@triton.jit
def _norm_and_rotate(
    x, ptr, weight_ptr, cos_ptr, sin_ptr, start, token, valid, rstd, FIRST: tl.constexpr, WIDTH: tl.constexpr,
    D: tl.constexpr, NORM: tl.constexpr, ROTATE: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """One tile x (fp32), whose rows begin at `start`, normed and rotated. Pairs D/2 apart read their partners again."""
    column = FIRST + tl.arange(0, WIDTH)[None, :]
    if NORM:
        x *= rstd[:, None] * tl.load(weight_ptr + column, mask=column < D, other=0.0).to(tl.float32)
    if ROTATE:
        if INTERLEAVED:
            pair = FIRST // 2 + tl.arange(0, WIDTH // 2)[None, :]
            inside = valid[:, None] & (pair < D // 2)
            cos = tl.load(cos_ptr + token[:, None] * (D // 2) + pair, mask=inside, other=0.0)
            sin = tl.load(sin_ptr + token[:, None] * (D // 2) + pair, mask=inside, other=0.0)
            first, second = tl.split(tl.reshape(x, (x.shape[0], WIDTH // 2, 2)))
            x = tl.reshape(tl.join(first * cos - second * sin, first * sin + second * cos), (x.shape[0], WIDTH))
        else:
            inside = valid[:, None] & (column < D)
            pair, partner = column % (D // 2), (column + D // 2) % D
            cos = tl.load(cos_ptr + token[:, None] * (D // 2) + pair, mask=inside, other=0.0)
            sin = tl.load(sin_ptr + token[:, None] * (D // 2) + pair, mask=inside, other=0.0)
            other = tl.load(ptr + start[:, None] + partner, mask=inside, other=0.0).to(tl.float32)
            if NORM:
                other *= rstd[:, None] * tl.load(weight_ptr + partner, mask=column < D, other=0.0).to(tl.float32)
            x = x * cos + other * tl.where(column < D // 2, -sin, sin)
    return x


@triton.jit
def _heads(
    ptr, weight_ptr, cos_ptr, sin_ptr, start, token, valid, eps, MAIN: tl.constexpr, REST: tl.constexpr,
    D: tl.constexpr, NORM: tl.constexpr, ROTATE: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """Queries or keys, normed and rotated, as two tiles in their own dtype; the second is not used where REST is 0."""
    dtype: tl.constexpr = ptr.dtype.element_ty
    main = load_tile(ptr, start, valid, 0, MAIN, D).to(tl.float32)
    rest = main
    if REST:
        rest = load_tile(ptr, start, valid, MAIN, REST, D).to(tl.float32)
    rstd = tl.sum(main, axis=1)
    if NORM:
        square = tl.sum(main * main, axis=1)
        if REST:
            square += tl.sum(rest * rest, axis=1)
        rstd = tl.rsqrt(square / D + eps)
    main = _norm_and_rotate(main, ptr, weight_ptr, cos_ptr, sin_ptr, start, token, valid, rstd, 0, MAIN,
                            D, NORM, ROTATE, INTERLEAVED)  # fmt: skip
    if REST:
        rest = _norm_and_rotate(rest, ptr, weight_ptr, cos_ptr, sin_ptr, start, token, valid, rstd, MAIN, REST,
                                D, NORM, ROTATE, INTERLEAVED)  # fmt: skip
    return main.to(dtype), rest.to(dtype)


@triton.jit
def _keys(
    k_ptr, v_ptr, weight_ptr, cos_ptr, sin_ptr, key, keys, k_token, v_token, eps, D: tl.constexpr,
    MAIN: tl.constexpr, REST: tl.constexpr, NORM: tl.constexpr, ROTATE: tl.constexpr, INTERLEAVED: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """Some keys, normed and rotated, and their values, as two tiles each."""
    valid = key < keys
    k_start, v_start = tl.multiple_of(key * k_token, ALIGN), tl.multiple_of(key * v_token, ALIGN)
    k_main, k_rest = _heads(k_ptr, weight_ptr, cos_ptr, sin_ptr, k_start, key, valid, eps, MAIN, REST, D,
                            NORM, ROTATE, INTERLEAVED)  # fmt: skip
    v_main = load_tile(v_ptr, v_start, valid, 0, MAIN, D)
    v_rest = v_main
    if REST:
        v_rest = load_tile(v_ptr, v_start, valid, MAIN, REST, D)
    return k_main, k_rest, v_main, v_rest


@triton.jit
def _scores(q_main, q_rest, k_main, k_rest, key, keys, scale, REST: tl.constexpr):
    """Scores of some queries and keys in units of log 2; -inf beyond the last key."""
    scores = tl.dot(q_main, tl.trans(k_main), input_precision="ieee")
    if REST:
        scores = tl.dot(q_rest, tl.trans(k_rest), scores, input_precision="ieee")
    return tl.where((key < keys)[None, :], scores * (scale * LOG2_E), float("-inf"))


@triton.jit
def _forward(
    q_ptr, k_ptr, v_ptr, q_weight_ptr, k_weight_ptr, cos_ptr, sin_ptr, out_ptr, lse_ptr, queries, keys, heads,
    q_sample, q_token, q_head, k_sample, k_token, k_head, v_sample, v_token, v_head, table_sample, scale, eps,
    D: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    HALVES: tl.constexpr, NORM_Q: tl.constexpr, NORM_K: tl.constexpr, ROTATE: tl.constexpr,
    INTERLEAVED: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    sample, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    q_ptr += tl.multiple_of(sample * q_sample + head * q_head, ALIGN)
    k_ptr += tl.multiple_of(sample * k_sample + head * k_head, ALIGN)
    v_ptr += tl.multiple_of(sample * v_sample + head * v_head, ALIGN)
    out_ptr += (sample * queries * heads + head) * D
    lse_ptr += (sample * heads + head) * queries
    if ROTATE:
        cos_ptr += sample * table_sample
        sin_ptr += sample * table_sample
    dtype: tl.constexpr = q_ptr.dtype.element_ty

    # In two halves: the registers hold neither all keys in fp32, as they are rotated, nor whole rows of scores.
    low = tl.arange(0, COLUMNS)
    high = COLUMNS + low
    k0_main, k0_rest, v0_main, v0_rest = _keys(
        k_ptr, v_ptr, k_weight_ptr, cos_ptr, sin_ptr, low, keys, k_token, v_token, eps,
        D, MAIN, REST, NORM_K, ROTATE, INTERLEAVED, ALIGN)  # fmt: skip
    if HALVES == 2:
        k1_main, k1_rest, v1_main, v1_rest = _keys(
            k_ptr, v_ptr, k_weight_ptr, cos_ptr, sin_ptr, high, keys, k_token, v_token, eps,
            D, MAIN, REST, NORM_K, ROTATE, INTERLEAVED, ALIGN)  # fmt: skip

    for first in range(0, queries, ROWS):
        row = first + tl.arange(0, ROWS)
        there = row < queries
        q_start = tl.multiple_of(row * q_token, ALIGN)
        q_main, q_rest = _heads(q_ptr, q_weight_ptr, cos_ptr, sin_ptr, q_start, row, there, eps, MAIN, REST, D,
                                NORM_Q, ROTATE, INTERLEAVED)  # fmt: skip
        scores = _scores(q_main, q_rest, k0_main, k0_rest, low, keys, scale, REST)
        top = tl.max(scores, axis=1)
        weights = tl.exp2(scores - top[:, None])  # pyright: ignore[reportCallIssue]  (one tensor, no tuple)
        total = tl.sum(weights, axis=1)
        out_main = tl.dot(weights.to(dtype), v0_main, input_precision="ieee")
        if REST:
            out_rest = tl.dot(weights.to(dtype), v0_rest, input_precision="ieee")
        if HALVES == 2:
            scores = _scores(q_main, q_rest, k1_main, k1_rest, high, keys, scale, REST)
            lower, top = top, tl.maximum(top, tl.max(scores, axis=1))
            shrink = tl.exp2(lower - top)
            weights = tl.exp2(scores - top[:, None])
            total = total * shrink + tl.sum(weights, axis=1)
            out_main = tl.dot(weights.to(dtype), v1_main, out_main * shrink[:, None], input_precision="ieee")
            if REST:
                out_rest = tl.dot(weights.to(dtype), v1_rest, out_rest * shrink[:, None], input_precision="ieee")
        out_start = tl.multiple_of(row * heads * D, 8)
        store_tile(out_ptr, out_start, there, out_main / total[:, None], 0, MAIN, D)
        if REST:
            store_tile(out_ptr, out_start, there, out_rest / total[:, None], MAIN, REST, D)
        tl.store(lse_ptr + row, top + tl.log2(total), mask=there)


def forward(
    q: Tensor, k: Tensor, v: Tensor, weights: Weights, tables: Tables, interleaved: bool, scale: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Attention of normed and rotated queries and keys.

    Args:
        q: Queries, (B, N, H, D).
        k: Keys, (B, M, H, D); M = N where there are tables.
        v: Values, (B, M, H, D).
        weights: Weights of the norms of q and k, (D,) or None for no norm.
        tables: Cosines and sines, (N, D/2) or (B, 1, N, D/2), or None for no rotation.
        interleaved: Pairs are neighbours; otherwise they are D/2 apart.
        scale: Factor of the scores.
        eps: Added to the mean square in the norms.

    Returns:
        (out, lse): out (B, N, H, D), contiguous, in q's dtype; lse (B, H, N), fp32, the log2 of each row's sum of
        exponentials.
    """
    q, k, v = dense_rows(q, k, v)
    batch, queries, heads, width = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(batch, heads, queries, dtype=torch.float32, device=q.device)
    config = configs.attention(architecture(q.device), k.shape[1])
    cos, sin = (t.contiguous() for t in tables) if tables is not None else (None, None)
    arguments = {
        "q_ptr": q,
        "k_ptr": k,
        "v_ptr": v,
        "q_weight_ptr": weights[0],
        "k_weight_ptr": weights[1],
        "cos_ptr": cos,
        "sin_ptr": sin,
        "out_ptr": out,
        "lse_ptr": lse,
        **sizes(q, k),
        **strides(q=q, k=k, v=v),
        "table_sample": cos[0].numel() if cos is not None and cos.ndim == 4 and cos.shape[0] > 1 else 0,
        "scale": scale,
        "eps": eps,
    }
    flags = {
        **constants(width, config, q, k, v),
        "NORM_Q": weights[0] is not None,
        "NORM_K": weights[1] is not None,
        "ROTATE": tables is not None,
        "INTERLEAVED": interleaved,
        "HALVES": triton.cdiv(k.shape[1], config.columns),
    }
    launch(_forward, (batch * heads,), arguments, flags, config)
    return out, lse


def sizes(q: Tensor, k: Tensor) -> dict[str, int]:
    """Arguments that every attention kernel takes, of q (B, N, H, D) and k (B, M, H, D)."""
    return {"queries": q.shape[1], "keys": k.shape[1], "heads": q.shape[2]}


def strides(**tensors: Tensor) -> dict[str, int]:
    """Arguments NAME_sample, NAME_token, NAME_head of each tensor (B, N, H, D)."""
    axes = ("sample", "token", "head")
    return {f"{name}_{axis}": t.stride(i) for name, t in tensors.items() for i, axis in enumerate(axes)}


def constants(width: int, config: configs.Config, *strided: Tensor) -> dict[str, int | bool]:
    """`tl.constexpr`s that every attention kernel takes.

    Args:
        width: Head dimension.
        config: The launch configuration.
        *strided: The tensors that the kernel reads and writes by strides.
    """
    return {
        "D": width,
        "MAIN": _MAIN,
        "REST": 16 if width > _MAIN else 0,
        "ROWS": config.rows,
        "COLUMNS": config.columns,
        "ALIGN": alignment(*strided),
    }
