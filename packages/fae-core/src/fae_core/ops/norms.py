"""Root-mean-square norm, and the adaptive norm (adaLN) of diffusion transformers in one call."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.ops import operators, reference
from fae_core.ops.choosing import Explanation, choose_pointwise
from fae_core.ops.dispatch import nothing_to_choose, requested_backend, through
from fae_core.ops.projections import with_bias_gradient
from fae_core.ops.triton import contract


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6, *, backend: str | None = None) -> Tensor:
    """x / sqrt(mean(x^2, last axis) + eps) * weight, computed in fp32 or, for fp64, in fp64.

    Args:
        x: (..., D), fp16, bf16, fp32 or fp64.
        weight: (D,), or None for no weight. For the (1 + w) convention pass 1 + w.
        eps: Added to the mean square.
        backend: "triton" (fp16, bf16, fp32) or "reference"; by default see `fae_core.ops.dispatch`.

    Returns:
        (..., D), in the dtype of x, or with a weight in that of x * weight.

    Raises:
        FAEError: The weight does not fit, or a named backend cannot run the call.
    """
    if weight is not None and weight.shape != x.shape[-1:]:
        raise FAEError(f"rms_norm: weight has shape {tuple(weight.shape)}, x ends in {x.shape[-1]}")
    if not nothing_to_choose(x, backend):
        inputs = (x, weight, float(eps))
        found = through(operators.RMS_NORM, inputs, lambda: _choose_rms_norm(x, weight, backend), backend)
        if found is not None:
            return found
        if requested_backend(backend) is not None:
            return reference.rms_norm(x, weight, eps)
    return _torch_rms_norm(x, weight, eps)


def adaln(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None = None,
    *,
    update: Tensor | None = None,
    update_bias: Tensor | None = None,
    gate: Tensor | None = None,
    weight: Tensor | None = None,
    norm: Literal["rms", "layer"] = "rms",
    eps: float = 1e-6,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Gate, residual, norm and modulation: the step between two branches of a DiT block.

    residual = x + gate * update; output = norm(residual) * weight * (1 + scale) + shift.

    Args:
        x: The residual stream, (B, N, D).
        scale: Modulation of the norm, (B, D), one row per sample; None: none, a plain norm.
        shift: Added after the norm, (B, D).
        update: Output of the branch before, (B, N, D); None: residual is x itself.
        update_bias: What the update's projection has added to it, (D,), where its gradient is to be made here (see
            `fae_core.ops.projections`): it is not added again.
        gate: Factor of the update, (B, D).
        weight: Weight of the norm, (D,).
        norm: "rms" or "layer".
        eps: Added to the mean square, or to the variance.
        backend: "triton" (fp16, bf16, fp32) or "reference"; by default see `fae_core.ops.dispatch`.

    Returns:
        (residual, output), each (B, N, D).

    Raises:
        FAEError: An unknown norm, or a named backend that cannot run the call.
    """
    if norm not in ("rms", "layer"):
        raise FAEError(f"adaln: norm is 'rms' or 'layer', not {norm!r}")
    plain = nothing_to_choose(x, backend)
    if not plain:
        added = (None, None, None) if update is None else (update, gate, update_bias)
        inputs = (x, *added[:2], scale, shift, weight, added[2], norm == "layer", float(eps))
        found = through(operators.ADALN, inputs, lambda: _choose_adaln(inputs, backend), backend)
        if found is not None:
            return (x, found[1]) if update is None else found
    if update is not None:
        update = with_bias_gradient(update, update_bias)
        x = x + update if gate is None else torch.addcmul(x, gate.unsqueeze(1), update)
    if plain and norm == "rms" and scale is not None and _few_passes(x):
        return x, _modulated_rms(x, scale, shift, weight, eps)
    rms = _torch_rms_norm if plain or requested_backend(backend) is None else reference.rms_norm
    function = rms if norm == "rms" else reference.layer_norm
    normed = function(x, weight, eps)
    if scale is None:
        return x, normed if shift is None else normed + shift.unsqueeze(1)
    factor = 1 + scale.unsqueeze(1)
    return x, normed * factor if shift is None else torch.addcmul(shift.unsqueeze(1), normed, factor)


def _choose_rms_norm(x: Tensor, weight: Tensor | None, backend: str | None) -> Explanation:
    return choose_pointwise("rms_norm", x, contract.row_norm(x, weight), backend)


def _choose_adaln(inputs: tuple[Any, ...], backend: str | None) -> Explanation:
    x, update, gate, scale, shift, weight = inputs[:6]
    return choose_pointwise("adaln", x, contract.adaln(x, update, (gate, scale, shift), weight), backend)


def _torch_rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """The reference; on a GPU in eager mode torch's kernel, in a tenth of the time (docs/benchmarks).

    Under torch.compile the reference is fused.
    """
    fused = x.is_cuda and not torch.compiler.is_compiling() and x.dtype != torch.float64
    if fused and (weight is None or weight.dtype == x.dtype):
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, eps)
    return reference.rms_norm(x, weight, eps)


def _few_passes(x: Tensor) -> bool:
    """Whether `_modulated_rms` applies: nothing is differentiated, compiled or rounded between the steps."""
    eager = not (torch.is_grad_enabled() or torch.compiler.is_compiling() or contract.forward_mode())
    return eager and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def _modulated_rms(x: Tensor, scale: Tensor, shift: Tensor | None, weight: Tensor | None, eps: float) -> Tensor:
    """norm(x) * weight * (1 + scale) + shift in two passes over memory, not four: a sample's factors come first."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    out = x * length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    factor = (1 + scale if weight is None else (1 + scale) * weight).unsqueeze(1)
    return out.mul_(factor) if shift is None else torch.addcmul(shift.unsqueeze(1), out, factor, out=out)
