"""SwiGLU's elementwise part."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.ops import operators
from fae_core.ops.choosing import Explanation, choose_pointwise
from fae_core.ops.dispatch import nothing_to_choose, through
from fae_core.ops.projections import with_bias_gradient
from fae_core.ops.triton import contract


def swiglu(x: Tensor, bias: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """silu(gate) * up of packed gate and up (Shazeer, 2020).

    Args:
        x: gate and up, (..., 2 * D), in that order.
        bias: What the projection has added to x, (2 * D,), where its gradient is to be made here (see
            `fae_core.ops.projections`): it is not added again.
        backend: "triton" (fp16, bf16, fp32) or "reference"; by default see `fae_core.ops.dispatch`.

    Returns:
        (..., D), in x's dtype.

    Raises:
        FAEError: x or the bias does not fit, or a named backend cannot run the call.
    """
    if x.shape[-1] % 2 or (bias is not None and bias.shape != x.shape[-1:]):
        raise FAEError(f"swiglu: x of shape {tuple(x.shape)} does not consist of gate and up, or the bias does not fit")
    if not nothing_to_choose(x, backend):
        found = through(operators.SWIGLU, (x, bias), lambda: _choose(x, bias, backend), backend)
        if found is not None:
            return found
    gate, up = with_bias_gradient(x, bias).chunk(2, dim=-1)
    # Without a backward pass silu(gate) is not needed again: the product is written in its place.
    return F.silu(gate) * up if torch.is_grad_enabled() else F.silu(gate).mul_(up)


def _choose(x: Tensor, bias: Tensor | None, backend: str | None) -> Explanation:
    return choose_pointwise("swiglu", x, contract.pairs(x, bias), backend)
