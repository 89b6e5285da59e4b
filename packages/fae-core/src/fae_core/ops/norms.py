"""Root-mean-square norm, and the adaptive norm of diffusion transformers in one call."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.ops import operators, reference
from fae_core.ops.dispatch import choose_pointwise, nothing_to_choose, requested_backend
from fae_core.ops.triton import contract


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6, *, backend: str | None = None) -> Tensor:
    """x / sqrt(mean(x^2, last axis) + eps) * weight, computed in fp32 and returned in the dtype of x (x * weight).

    x: (..., D), fp16, bf16, fp32 or fp64. weight: (D,) or None. For the (1 + w) convention pass 1 + w.
    backend: "triton" (fp16, bf16, fp32) or "reference"; by default see `fae_core.ops.dispatch`.
    """
    if weight is not None and weight.shape != x.shape[-1:]:
        raise FAEError(f"rms_norm: weight has shape {tuple(weight.shape)}, x ends in {x.shape[-1]}")
    if not nothing_to_choose(x, backend):
        chosen = choose_pointwise("rms_norm", x, contract.row_norm(x, weight), backend)
        if chosen.backend == "triton":
            return operators.rms_norm(x, weight, eps)[0]
        if requested_backend(backend) is not None:
            return reference.rms_norm(x, weight, eps)
    return _torch_rms_norm(x, weight, eps)


def adaln(
    x: Tensor,
    scale: Tensor,
    shift: Tensor | None = None,
    *,
    update: Tensor | None = None,
    gate: Tensor | None = None,
    weight: Tensor | None = None,
    norm: Literal["rms", "layer"] = "rms",
    eps: float = 1e-6,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Gate + residual + norm + modulate, the step between two branches of a DiT block.

    residual = x + gate * update (x itself where `update` is None); output = norm(residual) * weight * (1 + scale) + shift.
    x, update: (B, N, D); scale, shift, gate: (B, D), one row per sample; weight: (D,). Returns (residual, output).
    backend: "triton" (fp16, bf16, fp32) or "reference"; by default see `fae_core.ops.dispatch`.
    """
    if norm not in ("rms", "layer"):
        raise FAEError(f"adaln: norm is 'rms' or 'layer', not {norm!r}")
    plain = nothing_to_choose(x, backend)
    if not plain:
        chosen = choose_pointwise("adaln", x, contract.adaln(x, update, (gate, scale, shift), weight), backend)
        if chosen.backend == "triton":
            gate = None if update is None else gate
            residual, out = operators.adaln(x, update, gate, scale, shift, weight, norm == "layer", eps)
            return x if update is None else residual, out
    if update is not None:
        x = x + update if gate is None else torch.addcmul(x, gate.unsqueeze(1), update)
    if plain and norm == "rms" and _few_passes(x):
        return x, _modulated_rms(x, scale, shift, weight, eps)
    rms = _torch_rms_norm if plain or requested_backend(backend) is None else reference.rms_norm
    function = rms if norm == "rms" else reference.layer_norm
    normed, factor = function(x, weight, eps), 1 + scale.unsqueeze(1)
    return x, normed * factor if shift is None else torch.addcmul(shift.unsqueeze(1), normed, factor)


def _torch_rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """The reference, or on a GPU in eager mode torch's own kernel, which takes a tenth of its time (docs/benchmarks). Compilers fuse
    the former themselves."""
    fused = x.is_cuda and not torch.compiler.is_compiling() and x.dtype != torch.float64
    if fused and (weight is None or weight.dtype == x.dtype):
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, eps)
    return reference.rms_norm(x, weight, eps)


def _few_passes(x: Tensor) -> bool:
    """Where nothing is differentiated, fused or rounded between the steps, two passes over memory do for four."""
    eager = not (torch.is_grad_enabled() or torch.compiler.is_compiling() or contract.forward_mode())
    return eager and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def _modulated_rms(x: Tensor, scale: Tensor, shift: Tensor | None, weight: Tensor | None, eps: float) -> Tensor:
    """norm(x) * weight * (1 + scale) + shift, the factors of a sample multiplied first."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    out = x * length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    factor = (1 + scale if weight is None else (1 + scale) * weight).unsqueeze(1)
    return out.mul_(factor) if shift is None else torch.addcmul(shift.unsqueeze(1), out, factor, out=out)
