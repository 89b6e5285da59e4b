"""Gate, residual, norm and modulation of a diffusion transformer in one pass, and their gradients in one pass.

A block of the backward kernel stays within one sample, so it sums the gradients of shift, scale and gate in registers;
a second stage adds the blocks of a sample in a fixed order. sum(dout * normed) serves both scale (times weight) and
weight (times 1 + scale). Arithmetic is fp32; the residual is rounded to its dtype before the norm, because the backward
pass reads it rounded.
"""

# Triton compiles the functions under @triton.jit by its own rules: arguments become constants, and an `if` on one is
# decided when compiling.
# pyright: reportPossiblyUnboundVariable=false, reportArgumentType=false

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fae_core.ops.triton import configs
from fae_core.ops.triton.launch import dense_rows, launch


@triton.jit
def _moments(x, wide, WIDTH: tl.constexpr, eps, LAYER: tl.constexpr):
    """Mean (0 for RMS) and 1 / deviation of a row that is 0 beyond WIDTH."""
    mean = 0.0
    if LAYER:
        mean = tl.sum(x) / WIDTH
        x = tl.where(wide, x - mean, 0.0)
    return mean, tl.rsqrt(tl.sum(x * x) / WIDTH + eps)


@triton.jit
def _forward(
    x_ptr, update_ptr, gate_ptr, scale_ptr, shift_ptr, weight_ptr, residual_ptr, out_ptr,
    tokens, x_sample, x_token, update_sample, update_token, gate_sample, scale_sample, shift_sample, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, LAYER: tl.constexpr,
    UPDATE: tl.constexpr, GATE: tl.constexpr, SHIFT: tl.constexpr, WEIGHT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    sample, token = (row // tokens).to(tl.int64), (row % tokens).to(tl.int64)
    column = tl.arange(0, BLOCK)
    wide = column < WIDTH
    dense = row.to(tl.int64) * WIDTH + column
    x = tl.load(x_ptr + sample * x_sample + token * x_token + column, mask=wide, other=0.0).to(tl.float32)
    if UPDATE:
        update_start = sample * update_sample + token * update_token
        update = tl.load(update_ptr + update_start + column, mask=wide, other=0.0).to(tl.float32)
        if GATE:
            update *= tl.load(gate_ptr + sample * gate_sample + column, mask=wide, other=0.0).to(tl.float32)
        rounded = (x + update).to(residual_ptr.dtype.element_ty)
        tl.store(residual_ptr + dense, rounded, mask=wide)
        x = rounded.to(tl.float32)
    mean, rstd = _moments(x, wide, WIDTH, eps, LAYER)
    out = (x - mean) * rstd
    if WEIGHT:
        out *= tl.load(weight_ptr + column, mask=wide, other=0.0).to(tl.float32)
    out *= 1.0 + tl.load(scale_ptr + sample * scale_sample + column, mask=wide, other=0.0).to(tl.float32)
    if SHIFT:
        out += tl.load(shift_ptr + sample * shift_sample + column, mask=wide, other=0.0).to(tl.float32)
    tl.store(out_ptr + dense, out, mask=wide)


@triton.jit
def _backward(
    dout_ptr, dresidual_ptr, residual_ptr, update_ptr, gate_ptr, scale_ptr, weight_ptr, dx_ptr, dupdate_ptr, sums_ptr,
    tokens, tokens_per_block, residual_sample, residual_token, update_sample, update_token, gate_sample, scale_sample,
    eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr, LAYER: tl.constexpr,
    UPDATE: tl.constexpr, GATE: tl.constexpr, WEIGHT: tl.constexpr, DRESIDUAL: tl.constexpr,
):  # fmt: skip
    sample, block, blocks = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    column = tl.arange(0, BLOCK)
    wide = column < WIDTH
    factor = 1.0 + tl.load(scale_ptr + sample * scale_sample + column, mask=wide, other=0.0).to(tl.float32)
    if WEIGHT:
        factor *= tl.load(weight_ptr + column, mask=wide, other=0.0).to(tl.float32)
    if GATE:
        gate = tl.load(gate_ptr + sample * gate_sample + column, mask=wide, other=0.0).to(tl.float32)
        sum_gate = tl.zeros((BLOCK,), tl.float32)
    sum_shift, sum_unit = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    first = block * tokens_per_block
    for token in range(first, tl.minimum(first + tokens_per_block, tokens)):
        dense = (sample * tokens + token) * WIDTH + column
        start = sample * residual_sample + token * residual_token
        x = tl.load(residual_ptr + start + column, mask=wide, other=0.0).to(tl.float32)
        dout = tl.load(dout_ptr + dense, mask=wide, other=0.0).to(tl.float32)
        mean, rstd = _moments(x, wide, WIDTH, eps, LAYER)
        unit = tl.where(wide, (x - mean) * rstd, 0.0)
        sum_shift += dout
        sum_unit += dout * unit
        dunit = dout * factor
        along = tl.sum(dunit * unit) / WIDTH
        dx = dunit - unit * along
        if LAYER:
            dx -= tl.sum(dunit) / WIDTH
        dx *= rstd
        if DRESIDUAL:
            dx += tl.load(dresidual_ptr + dense, mask=wide, other=0.0).to(tl.float32)
        tl.store(dx_ptr + dense, dx, mask=wide)
        if GATE:
            update_start = sample * update_sample + token * update_token
            sum_gate += dx * tl.load(update_ptr + update_start + column, mask=wide, other=0.0).to(tl.float32)
            dx *= gate
        if UPDATE:
            tl.store(dupdate_ptr + dense, dx, mask=wide)
    start = sums_ptr + (sample * blocks + block) * 3 * WIDTH + column
    tl.store(start, sum_shift, mask=wide)
    tl.store(start + WIDTH, sum_unit, mask=wide)
    if GATE:
        tl.store(start + 2 * WIDTH, sum_gate, mask=wide)


class Operands(NamedTuple):
    """What is combined with x, or the gradients of these; None where there is none.

    Attributes:
        update: Output of the branch before, (B, N, D).
        gate: Factor of the update, (B, D).
        scale: Modulation of the norm, (B, D).
        shift: Added after the norm, (B, D).
        weight: Weight of the norm, (D,).
    """

    update: Tensor | None
    gate: Tensor | None
    scale: Tensor
    shift: Tensor | None
    weight: Tensor | None


def forward(
    x: Tensor, operands: Operands, layer: bool, eps: float, residual_dtype: torch.dtype, out_dtype: torch.dtype
) -> tuple[Tensor | None, Tensor]:
    """The residual, and its norm, modulated.

    Args:
        x: The residual stream, (B, N, D).
        operands: What is combined with it.
        layer: LayerNorm instead of RMSNorm.
        eps: Added to the mean square, or to the variance.
        residual_dtype: Dtype of the residual.
        out_dtype: Dtype of out.

    Returns:
        (residual, out), contiguous; residual is None where there is no update.
    """
    update, gate, shift = dense_rows(operands.update, operands.gate, operands.shift)
    x, scale = dense_rows(x, operands.scale)
    weight = operands.weight
    batch, tokens, width = x.shape
    residual = torch.empty(x.shape, dtype=residual_dtype, device=x.device) if update is not None else None
    out = torch.empty(x.shape, dtype=out_dtype, device=x.device)
    arguments = {
        "x_ptr": x,
        "update_ptr": update,
        "gate_ptr": gate,
        "scale_ptr": scale,
        "shift_ptr": shift,
        "weight_ptr": weight,
        "residual_ptr": residual,
        "out_ptr": out,
        "tokens": tokens,
        **_tokens("x", x),
        **_tokens("update", update),
        **_sample(gate=gate, scale=scale, shift=shift),
        "eps": eps,
    }
    flags = {"UPDATE": update is not None, "GATE": gate is not None, "WEIGHT": weight is not None}
    constants = {
        "WIDTH": width,
        "BLOCK": configs.power_of_two(width),
        "LAYER": layer,
        "SHIFT": shift is not None,
        **flags,
    }
    launch(_forward, (batch * tokens,), arguments, constants, configs.adaln(width))
    return residual, out


def backward(
    dout: Tensor,
    dresidual: Tensor | None,
    residual: Tensor,
    operands: Operands,
    layer: bool,
    eps: float,
    x_dtype: torch.dtype,
) -> tuple[Tensor, Operands]:
    """Gradients of `forward`.

    Args:
        dout: Gradient of out, (B, N, D).
        dresidual: Gradient of the residual; None where the residual was not used.
        residual: What was normed: the residual, or x where there was no update.
        operands: As for `forward`.
        layer: As for `forward`.
        eps: As for `forward`.
        x_dtype: Dtype of x's gradient.

    Returns:
        The gradients of x and of the operands.
    """
    update, gate, scale, shift, weight = operands
    batch, tokens, width = residual.shape
    dx = torch.empty(residual.shape, dtype=x_dtype, device=residual.device)
    dupdate = torch.empty_like(dx, dtype=update.dtype) if update is not None else None
    # Few tokens a block, so that blocks fill the device where there are few samples.
    config = configs.adaln_backward(width)
    per_block = max(1, min(64, triton.cdiv(batch * tokens, config.blocks)))
    blocks = triton.cdiv(tokens, per_block)
    sums = torch.empty(batch, blocks, 3, width, dtype=torch.float32, device=dx.device)
    update, gated = dense_rows(update, gate)
    residual, scaled = dense_rows(residual, scale)
    arguments = {
        "dout_ptr": dout.contiguous(),
        "dresidual_ptr": None if dresidual is None else dresidual.contiguous(),
        "residual_ptr": residual,
        "update_ptr": update,
        "gate_ptr": gated,
        "scale_ptr": scaled,
        "weight_ptr": weight,
        "dx_ptr": dx,
        "dupdate_ptr": dupdate,
        "sums_ptr": sums,
        "tokens": tokens,
        "tokens_per_block": per_block,
        **_tokens("residual", residual),
        **_tokens("update", update),
        **_sample(gate=gated, scale=scaled),
        "eps": eps,
    }
    flags = {"UPDATE": update is not None, "GATE": gate is not None, "WEIGHT": weight is not None}
    constants = {"WIDTH": width, "BLOCK": configs.power_of_two(width), "LAYER": layer, **flags}
    constants["DRESIDUAL"] = dresidual is not None
    launch(_backward, (batch, blocks), arguments, constants, config)
    # Each is summed by itself, because an operator's results must not share memory.
    dshift, dunit, dgate = (sums[:, :, i].sum(1) for i in range(3))
    return dx, Operands(
        update=dupdate,
        gate=None if gate is None else dgate.to(gate.dtype),
        scale=(dunit if weight is None else dunit * weight.float()).to(scale.dtype),
        shift=None if shift is None else dshift.to(shift.dtype),
        weight=None if weight is None else (dunit * (1 + scale.float())).sum(0).to(weight.dtype),
    )


def _tokens(name: str, x: Tensor | None) -> dict[str, int]:
    strides = (0, 0) if x is None else x.stride()[:2]
    return {f"{name}_sample": strides[0], f"{name}_token": strides[1]}


def _sample(**tensors: Tensor | None) -> dict[str, int]:
    return {f"{name}_sample": 0 if x is None else x.stride(0) for name, x in tensors.items()}
