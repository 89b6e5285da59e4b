"""Linear layers for sampling: plain, or packed by oneDNN, joined with the operation that follows if possible.

For x (rows, in), layer(x) is x W^T + b, also written to `out`; layer(x, gelu=) is its GELU, "none" (exact) or "tanh";
layer(x, residual=) is residual + x W^T + b and may overwrite the residual. Weights are frozen copies or views; the
model that they come from is not changed. A layer that is more than its weight is called as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_core.ops.projections import is_bare

_CACHE_LINE = 64


class PlainLinear:
    """torch's own product, on any device.

    On a CPU the weight is stored as (in, out), with rows longer by one cache line: a product of a few rows of x then
    runs along the outputs, and the rows of a weight as wide as a page do not share the same cache lines. For 4 rows of
    x it takes 0.7 of the time of the usual layout.

    Args:
        linear: the layer whose weights are taken.
        dtype: of weight and bias.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        weight = linear.weight.detach().to(dtype).t()
        if weight.device.type == "cpu":
            inputs, outputs = weight.shape
            spread = weight.new_empty(inputs, outputs + _CACHE_LINE // weight.element_size())
            # In two steps: torch transposes blockwise only into contiguous memory.
            weight = spread[:, :outputs].copy_(weight.contiguous())
        self.weight = weight
        self.bias = linear.bias.detach().to(dtype) if linear.bias is not None else None

    def __call__(
        self, x: Tensor, *, gelu: str | None = None, residual: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        if residual is not None:
            if self.bias is not None:
                residual.add_(self.bias)
            return residual.addmm_(x, self.weight)
        if self.bias is None:
            result = torch.mm(x, self.weight, out=out)
        else:
            result = torch.addmm(self.bias, x, self.weight, out=out)
        return result if gelu is None else F.gelu(result, approximate=gelu)


class PackedLinear:
    """The weight in oneDNN's blocked layout, with activation or residual inside the product; best with AVX-512.

    torch's compiler uses these operators when it freezes weights. They have no public name, so
    `choose_linear` tests them.

    Args:
        linear: the layer whose weights are taken.
        dtype: of weight and bias.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        # The layout depends on a nominal number of rows; that of 8 suits 4 to 64 alike.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype).contiguous(), 8)
        self.bias = linear.bias.detach().to(dtype) if linear.bias is not None else None

    def __call__(
        self, x: Tensor, *, gelu: str | None = None, residual: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        if residual is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")
        attribute, algorithm = ("none", "") if gelu is None else ("gelu", gelu)
        result = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, attribute, [], algorithm)
        return result if out is None else out.copy_(result)


class Called:
    """A linear layer, norm or MLP of which the weights say only a part, and which is called as it is: with an adapter
    (LoRA), a parametrisation or a hook, quantised, or another module in its place.

    Args:
        module: what is called, in its own dtype.
        dtype: of the result.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self.module, self.dtype = module, dtype

    def __call__(
        self, x: Tensor, *, gelu: str | None = None, residual: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        own = next((weight.dtype for weight in self.module.parameters() if weight.is_floating_point()), self.dtype)
        result = self.module(x.to(own)).to(self.dtype)
        if residual is not None:
            return residual.add_(result)
        result = result if gelu is None else F.gelu(result, approximate=gelu)
        return result if out is None else out.copy_(result)


SamplingLinear = PlainLinear | PackedLinear | Called
MakeLinear = Callable[[nn.Linear, torch.dtype], SamplingLinear]


def sampling_linear(kind: type[PlainLinear | PackedLinear]) -> MakeLinear:
    """What makes a layer for sampling of one of the model: of `kind`, where the layer is its weight and bias alone.

    Args:
        kind: as `choose_linear` gives it.
    """

    def make(linear: nn.Linear, dtype: torch.dtype) -> SamplingLinear:
        plain = is_bare(linear, nn.Linear) and type(linear.weight) is nn.Parameter
        return kind(linear, dtype) if plain else Called(linear, dtype)

    return make


def choose_linear(packed: bool | None, device: torch.device, dtype: torch.dtype) -> type[PlainLinear | PackedLinear]:
    """PackedLinear or PlainLinear.

    With `packed` None it is what measurements found faster: on a CPU packed weights for bf16 and with AVX-512, else
    plain ones. This is a rule and not a timing, so that equal calls on one machine round alike.

    Args:
        packed: whether to pack; None = the rule.
        device: of the model.
        dtype: of the weights.

    Raises:
        FAEError: if packed weights are requested and do not work here.
    """
    if packed is None:
        packable = device.type == "cpu" and (dtype != torch.float32 or _has_avx512())
        return PackedLinear if packable and _packing_obstacle(dtype) is None else PlainLinear
    if not packed:
        return PlainLinear
    obstacle = "the model is not on the CPU" if device.type != "cpu" else _packing_obstacle(dtype)
    if obstacle:
        raise FAEError(f"weights cannot be packed: {obstacle}")
    return PackedLinear


def _has_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


@functools.cache
def _packing_obstacle(dtype: torch.dtype) -> str | None:
    """Why packed weights do not work here, or None. The probe compares them with torch's own product."""
    if not torch.backends.mkldnn.is_available():
        return "this torch has no oneDNN"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"oneDNN packs fp32 and bf16, not {dtype}"
    with torch.inference_mode(), torch.device("cpu"):
        linear = nn.utils.skip_init(nn.Linear, 32, 32)
        assert isinstance(linear, nn.Linear)
        linear.weight.copy_(torch.linspace(-0.3, 0.4, 1024).view(32, 32))
        linear.bias.copy_(torch.linspace(1, 2, 32))
        x = torch.linspace(-1, 1, 96).view(3, 32).to(dtype)
        calls: tuple[dict[str, Any], ...] = ({}, {"gelu": "none"}, {"gelu": "tanh"})
        try:
            packed, plain = PackedLinear(linear, dtype), PlainLinear(linear, dtype)
            tolerance = 1e-4 if dtype == torch.float32 else 5e-2
            pairs = [(packed(x, **call), plain(x, **call)) for call in calls]
            pairs.append((packed(x, residual=x), plain(x, residual=x.clone())))
            same = all(torch.allclose(*pair, tolerance, tolerance) for pair in pairs)
        except (AttributeError, RuntimeError) as error:
            return f"torch refuses: {str(error).splitlines()[0]}"
    return None if same else "a probe gave wrong numbers"
