"""The layer of layers.py for sampling: a stretch of tokens over a cache, with few and fused operations.

With few rows per call a layer's time is spent on reading its weights and launching its operations. Therefore the
weights may be packed, activations and residuals are part of the products, and queries and keys are rotated in place.
Tests compare it with the training layer.

Shapes: R rows, n tokens of the stretch, C width, H query heads, G key heads, D head dimension; hidden states are (R
* n, C).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fae_core import ops
from fae_core.layers import MLP
from fae_core.ops.projections import is_bare
from fae_core.ops.rotary import Layout
from fae_flow.layers import CausalAttention, FlowLayer, GatedMLP, OffsetRMSNorm, Rope
from fae_flow.sampling.cache import LayerCache
from fae_flow.sampling.linear import Called, MakeLinear, SamplingLinear
from fae_flow.sampling.parts import taken_apart, within

# One complex number per rotated pair, (n, 1, D/2); or cosines and sines (n, D/2).
Rotation = Tensor | Rope
Norm = Callable[[Tensor], Tensor]


class Heads(NamedTuple):
    """Views of one product of queries, keys and values.

    Attributes:
        packed: the product, (R * n, (H + 2G) * D).
        turned: queries and keys (R, n, H + G, D), to be rotated in place.
        queries: (R, H, n, D).
        new: keys and values (R, 2G, n, D), to be cached.
    """

    packed: Tensor
    turned: Tensor
    queries: Tensor
    new: Tensor

    @classmethod
    def of(cls, packed: Tensor, tokens: int, heads: int, kv_heads: int) -> Heads:
        """The views of a product for n `tokens`, H `heads` and G `kv_heads`."""
        by_token = packed.view(packed.shape[0] // tokens, tokens, heads + 2 * kv_heads, -1)
        queries, new = by_token.transpose(1, 2).split_with_sizes((heads, 2 * kv_heads), 1)
        return cls(packed, by_token.narrow(2, 0, heads + kv_heads), queries, new)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """`ops.attention` with its arguments in the order of torch's function."""
    return ops.attention(queries, keys, values, mask=mask)


@dataclass(frozen=True)
class Stretch:
    """What one pass over n tokens has in common for all layers of a block.

    Attributes:
        tokens: n.
        rotation: of the tokens' positions; None without rope.
        mask: (n, length), True where a token may attend; None = everywhere.
        heads: memory for every layer's product, with its views; None = each layer allocates its own.
        attend: the function `attend`, or torch's where that is what it would call.
    """

    tokens: int
    rotation: Rotation | None
    mask: Tensor | None
    heads: Heads | None = None
    attend: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor] = attend


class SamplingLayer:
    """A frozen FlowLayer; arguments as of `SamplingBlock`."""

    def __init__(self, layer: FlowLayer, make_linear: MakeLinear, dtype: torch.dtype, name: str) -> None:
        layer = taken_apart(layer, FlowLayer, name)
        self.attention_norm = sampling_norm(layer.attention_norm, dtype)
        self.attention = SamplingAttention(layer.attention, make_linear, dtype, f"{name}.attention")
        self.attention_post_norm = sampling_norm(layer.attention_post_norm, dtype)
        self.mlp_norm = sampling_norm(layer.mlp_norm, dtype)
        self.mlp = sampling_mlp(layer.mlp, make_linear, dtype)
        self.mlp_post_norm = sampling_norm(layer.mlp_post_norm, dtype)

    def __call__(self, x: Tensor, cache: LayerCache, stretch: Stretch) -> Tensor:
        """(R * n, C) to the same shape; `x` is overwritten."""
        attended = self.attention(_apply(self.attention_norm, x), cache, stretch)
        x = _branch(self.attention.proj, attended, self.attention_post_norm, x)
        return _branch(self.mlp, _apply(self.mlp_norm, x), self.mlp_post_norm, x)


class SamplingMLP:
    """A frozen MLP, which adds its residual in its last product.

    Args:
        mlp: the MLP.
        make_linear: as of `SamplingBlock`.
        dtype: of weights and activations.
    """

    def __init__(self, mlp: MLP | GatedMLP, make_linear: MakeLinear, dtype: torch.dtype) -> None:
        self.kind = mlp.kind if isinstance(mlp, GatedMLP) else None
        self.gate = make_linear(mlp.gate, dtype) if isinstance(mlp, GatedMLP) else None
        self.up, self.down = make_linear(mlp.up, dtype), make_linear(mlp.down, dtype)

    def __call__(self, x: Tensor, *, residual: Tensor | None = None) -> Tensor:
        """(R * n, C) to the same shape; the residual may be overwritten."""
        if self.gate is None:
            hidden = self.up(x, gelu="none")
        elif self.kind == "geglu":
            hidden = self.gate(x, gelu="tanh") * self.up(x)
        else:
            hidden = F.silu(self.gate(x)) * self.up(x)
        return self.down(hidden, residual=residual)


class SamplingAttention:
    """Attention of a stretch over a cache, without the output projection, which the layer joins with its residual."""

    def __init__(self, attention: CausalAttention, make_linear: MakeLinear, dtype: torch.dtype, name: str) -> None:
        attention = taken_apart(attention, CausalAttention, name)
        self.heads, self.kv_heads, self.head_dim = attention.heads, attention.kv_heads, attention.head_dim
        self.layout: Layout = attention.layout
        self.qkv, self.proj = make_linear(attention.qkv, dtype), make_linear(attention.proj, dtype)
        self.qk_weight: Tensor | None = None
        self.qk_norms: tuple[Called, Called] | None = None
        q_norm, k_norm = attention.q_norm, attention.k_norm
        if is_bare(q_norm, OffsetRMSNorm) and is_bare(k_norm, OffsetRMSNorm):
            q, k = (1 + norm.weight.detach().to(dtype) for norm in (q_norm, k_norm))
            self.qk_weight = torch.cat([q.expand(self.heads, -1), k.expand(self.kv_heads, -1)])
            self.qk_eps = q_norm.eps
        elif q_norm is not None and k_norm is not None:
            self.qk_norms = Called(q_norm, dtype), Called(k_norm, dtype)

    def __call__(self, x: Tensor, cache: LayerCache, stretch: Stretch) -> Tensor:
        """(R * n, C) to (R * n, H * D)."""
        heads, tokens, mask = stretch.heads, stretch.tokens, stretch.mask
        if heads is None:
            heads = Heads.of(self.qkv(x), tokens, self.heads, self.kv_heads)
        else:
            self.qkv(x, out=heads.packed)
        self._norm_and_rotate(heads.turned, stretch.rotation)
        keys, values = cache.update(heads.new)
        queries = heads.queries
        # Query heads that share a key head become rows of one query matrix, so the cache is never copied per head.
        groups = self.heads // self.kv_heads
        if groups > 1:
            queries = queries.reshape(-1, self.kv_heads, groups * tokens, self.head_dim)
            mask = mask.repeat(groups, 1) if mask is not None else None
        out = stretch.attend(queries, keys, values, mask)
        if tokens > 1:
            out = out.reshape(-1, self.heads, tokens, self.head_dim).transpose(1, 2)
        return out.reshape(x.shape[0], -1)

    def _norm_and_rotate(self, qk: Tensor, rotation: Rotation | None) -> None:
        """Norm and rotate queries and keys (R, n, H + G, D), in place."""
        if self.qk_weight is not None:
            qk.copy_(ops.rms_norm(qk, None, self.qk_eps) * self.qk_weight)
        if self.qk_norms is not None:
            for norm, part in zip(self.qk_norms, qk.split((self.heads, self.kv_heads), dim=2), strict=True):
                part.copy_(norm(part))
        if rotation is None:
            return
        if isinstance(rotation, tuple):
            qk.copy_(ops.apply_rope(qk.transpose(1, 2), *rotation, layout=self.layout).transpose(1, 2))
        elif qk.dtype == torch.float32:
            qk.view(torch.complex64).mul_(rotation)
        else:
            qk.copy_(qk.float().view(torch.complex64).mul_(rotation).view(torch.float32))


def sampling_norm(norm: nn.Module, dtype: torch.dtype) -> Norm | None:
    """A frozen norm as a function; None for the identity."""
    if is_bare(norm, nn.Identity):
        return None
    if is_bare(norm, OffsetRMSNorm):
        offset, rms_eps = 1 + norm.weight.detach().to(dtype), norm.eps
        return lambda x: ops.rms_norm(x, offset, rms_eps)
    if is_bare(norm, nn.LayerNorm):
        weight = norm.weight.detach().to(dtype)
        bias, shape, eps = norm.bias.detach().to(dtype), norm.normalized_shape, norm.eps
        return lambda x: torch.layer_norm(x, shape, weight, bias, eps)
    return Called(norm, dtype)


def sampling_mlp(mlp: nn.Module, make_linear: MakeLinear, dtype: torch.dtype) -> SamplingMLP | Called:
    """A frozen MLP, or what stands in its place, called."""
    found = within(mlp)
    if is_bare(found, MLP) or is_bare(found, GatedMLP):
        return SamplingMLP(found, make_linear, dtype)
    return Called(mlp, dtype)


def _apply(norm: Norm | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def _branch(last: SamplingLinear | SamplingMLP, x: Tensor, post_norm: Norm | None, residual: Tensor) -> Tensor:
    """residual + post_norm(last(x)); without a norm the last product itself adds the residual."""
    return last(x, residual=residual) if post_norm is None else residual + post_norm(last(x))
