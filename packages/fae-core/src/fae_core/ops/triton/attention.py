"""Scaled dot-product attention, forward: queries in tiles, keys and values streamed past them, any number of either.

A running maximum keeps the exponentials small (Milakov and Gimelshein, 2018; Dao et al., 2022). Head dimension 72 is
held as 64 and 16 columns, of which 8 are zeros: padded to 128, every product would cost 1.6 times as much. Blocks of
one head follow each other, so that its keys and values come from the second-level cache.

The gradient is that of torch's flash attention, which needs what is kept here: the output and each row's log of sums.
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
from fae_core.ops.triton.launch import alignment, launch

LOG2_E = 1.4426950408889634


@triton.jit
def _forward(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, queries, keys, heads,
    q_sample, q_token, q_head, k_sample, k_token, k_head, v_sample, v_token, v_head, scale,
    D: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, EVEN: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """scale: times log2(e). REST: columns beyond 64, or 0. EVEN: keys are a multiple of COLUMNS."""
    tiles = tl.cdiv(queries, ROWS)
    tile, which = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    sample, head = (which // heads).to(tl.int64), (which % heads).to(tl.int64)
    q_ptr += tl.multiple_of(sample * q_sample, ALIGN) + tl.multiple_of(head * q_head, ALIGN)
    k_ptr += tl.multiple_of(sample * k_sample, ALIGN) + tl.multiple_of(head * k_head, ALIGN)
    v_ptr += tl.multiple_of(sample * v_sample, ALIGN) + tl.multiple_of(head * v_head, ALIGN)
    query, column = tile * ROWS + tl.arange(0, ROWS), tl.arange(0, 64)
    there = (query < queries)[:, None]
    start = tl.multiple_of(query * q_token, ALIGN)[:, None]
    q1 = tl.load(q_ptr + start + column[None, :], mask=there, other=0.0)
    out1, top = tl.zeros((ROWS, 64), tl.float32), tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    if REST:
        rest = 64 + tl.arange(0, 16)
        q2 = tl.load(q_ptr + start + rest[None, :], mask=there & (rest < D)[None, :], other=0.0)
        out2 = tl.zeros((ROWS, 16), tl.float32)
    for first in range(0, keys, COLUMNS):
        key = first + tl.arange(0, COLUMNS)
        k_start = tl.multiple_of(key * k_token, ALIGN)[:, None]
        v_start = tl.multiple_of(key * v_token, ALIGN)[:, None]
        if EVEN:
            k1 = tl.load(k_ptr + k_start + column[None, :])
            v1 = tl.load(v_ptr + v_start + column[None, :])
        else:
            k1 = tl.load(k_ptr + k_start + column[None, :], mask=(key < keys)[:, None], other=0.0)
            v1 = tl.load(v_ptr + v_start + column[None, :], mask=(key < keys)[:, None], other=0.0)
        scores = tl.dot(q1, tl.trans(k1), input_precision="ieee")
        if REST:
            exists = (rest < D)[None, :] if EVEN else (key < keys)[:, None] & (rest < D)[None, :]
            k2 = tl.load(k_ptr + k_start + rest[None, :], mask=exists, other=0.0)
            v2 = tl.load(v_ptr + v_start + rest[None, :], mask=exists, other=0.0)
            scores = tl.dot(q2, tl.trans(k2), scores, input_precision="ieee")
        scores *= scale  # before the maximum: a negative scale reverses the order
        if not EVEN:
            scores = tl.where((key < keys)[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, axis=1))
        weights, shrink = tl.exp2(scores - higher[:, None]), tl.exp2(top - higher)
        total = total * shrink + tl.sum(weights, axis=1)
        weights = weights.to(q_ptr.dtype.element_ty)
        out1 = tl.dot(weights, v1, out1 * shrink[:, None], input_precision="ieee")
        if REST:
            out2 = tl.dot(weights, v2, out2 * shrink[:, None], input_precision="ieee")
        top = higher
    out_ptr += (sample * queries * heads + head) * D
    start = tl.multiple_of(query.to(tl.int64)[:, None] * (heads * D), [8, 8])
    tl.store(out_ptr + start + column[None, :], out1 / total[:, None], mask=there)
    if REST:
        tl.store(out_ptr + start + rest[None, :], out2 / total[:, None], mask=there & (rest < D)[None, :])
    lse = (top + tl.log2(total)) * 0.6931471805599453
    tl.store(lse_ptr + which.to(tl.int64) * queries + query, lse, mask=query < queries)


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """softmax(q k^T * scale) v in one launch.

    Args:
        q: Queries, (B, N, H, D); D is 64 or 72.
        k: Keys, (B, M, H, D), M at least 1.
        v: Values, (B, M, H, D).
        scale: Factor of the scores.

    Returns:
        (out, lse): out (B, N, H, D), contiguous; lse (B, H, N), fp32, the natural log of each row's sum of
        exponentials.
    """
    batch, queries, heads, width = q.shape
    keys = k.shape[1]
    q, k, v = (x if x.stride(-1) == 1 and x.stride(1) < _LONGEST_STRIDE else x.contiguous() for x in (q, k, v))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(batch, heads, queries, dtype=torch.float32, device=q.device)
    config = configs.attention(queries, keys)
    arguments = {
        "q_ptr": q,
        "k_ptr": k,
        "v_ptr": v,
        "out_ptr": out,
        "lse_ptr": lse,
        "queries": queries,
        "keys": keys,
        "heads": heads,
        **{f"{n}_{axis}": x.stride(i) for n, x in zip("qkv", (q, k, v), strict=True) for i, axis in _AXES},
        "scale": scale * LOG2_E,
    }
    constants = {
        "D": width,
        "REST": width > 64,
        "ROWS": config.rows,
        "COLUMNS": config.columns,
        "EVEN": keys % config.columns == 0,
        "ALIGN": alignment(q, k, v),
    }
    launch(_forward, (triton.cdiv(queries, config.rows) * batch * heads,), arguments, constants, config)
    return out, lse


_AXES = ((0, "sample"), (1, "token"), (2, "head"))
# Places within a head are counted in 32 bits.
_LONGEST_STRIDE = 2**16
