"""The gradient of a projection's bias, made by the op after the projection.

It is the sum over the rows of a gradient that the op's backward kernel holds in registers; torch reads all of it again.
So the projection adds its bias as a constant, and the op takes the bias beside the result, for its gradient alone.
"""

from __future__ import annotations

from typing import Any, TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fae_core.ops import triton
from fae_core.ops.triton import contract

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def projected(linear: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """linear(x), and the bias whose gradient the op after it makes; None where the projection makes it itself.

    Anything but a plain `nn.Linear` (an adapter, a quantised layer, one with hooks) is called as it is.

    Args:
        linear: The projection.
        x: Its input, (..., C).
    """
    if not is_bare(linear, nn.Linear):
        return linear(x), None
    bias: Tensor | None = linear.bias
    if bias is None or not bias.requires_grad or not torch.is_grad_enabled():
        return linear(x), None
    if x.device.type not in triton.DEVICES or contract.is_transformed():
        return linear(x), None
    return F.linear(x, linear.weight, bias.detach()), bias


def is_bare(module: nn.Module | None, kind: type[ModuleT]) -> TypeGuard[ModuleT]:
    """Whether a module may be replaced by an op on its weights: it is of this class itself, and has no hook.

    Args:
        module: Perhaps another one in its place: an adapter, a copy that is trained (peft's `modules_to_save`).
        kind: The class that the op computes.
    """
    return module is not None and type(module) is kind and not is_hooked(module)


def is_hooked(module: nn.Module) -> bool:
    """Whether calling a module does more than its `forward`.

    Args:
        module: Any.
    """
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def with_bias_gradient(x: Tensor, bias: Tensor | None) -> Tensor:
    """x, whose gradient also goes to the bias, summed over the rows: for ops that run in plain torch.

    Args:
        x: What the projection gave, (..., D).
        bias: As `projected` gave it, with D numbers.
    """
    if bias is None or not (torch.is_grad_enabled() and bias.requires_grad):
        return x
    if torch.compiler.is_compiling() or contract.is_transformed():
        return x + (bias - bias.detach()).to(x.dtype)  # fused, or differentiated by torch.func
    return _BiasGradient.apply(x, bias)


class _BiasGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        ctx.dtype = bias.dtype
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (dx,) = gradients
        return dx, dx.flatten(0, -2).sum(0).to(ctx.dtype)
