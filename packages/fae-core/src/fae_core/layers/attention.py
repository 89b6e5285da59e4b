"""Multi-head self-attention over tokens.

Shape suffixes: B batch, N tokens, H heads, D head dimension, C width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fae_core import ops
from fae_core.layers.norm import RMSNorm
from fae_core.ops.projections import is_bare
from fae_core.ops.rotary import Layout


class SelfAttention(nn.Module):
    """Self-attention with packed qkv; optionally with normalised queries and keys, with rotation, or causal.

    Args:
        dim: width C, a multiple of `heads`.
        heads: number of heads H.
        bias: whether the projections have biases.
        qk_norm: how queries and keys are normalised: "rms" (or True), "layer" (LayerNorm with weight and bias), False.
        causal: whether a token sees only itself and those before it.
        rope_layout: which entries form a rotated pair.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        bias: bool = True,
        qk_norm: bool | Literal["rms", "layer"] = False,
        causal: bool = False,
        rope_layout: Layout = "interleaved",
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} is not a multiple of {heads} heads")
        self.heads, self.head_dim = heads, dim // heads
        self.causal = causal
        self.rope_layout: Layout = rope_layout
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        norm = nn.LayerNorm if qk_norm == "layer" else RMSNorm
        self.q_norm = norm(self.head_dim) if qk_norm else None
        self.k_norm = norm(self.head_dim) if qk_norm else None
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(
        self,
        x_BNC: Tensor,
        rope: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        *,
        project: bool = True,
    ) -> Tensor:
        """(B, N, C) of tokens (B, N, C).

        Args:
            x_BNC: the tokens.
            rope: tables (cos, sin), each (N, D/2).
            mask: as `fae_core.ops.self_attention` takes it.
            project: False leaves `proj` to the caller, whose next op makes its bias' gradient; see `ops.projected`.
        """
        batch, tokens, _ = x_BNC.shape
        norms = [norm for norm in (self.q_norm, self.k_norm) if norm is not None]
        weights = [norm.weight for norm in norms if is_bare(norm, RMSNorm)]  # of norms that the op computes
        called = len(weights) < len(norms)
        qkv, bias = (self.qkv(x_BNC), None) if called else ops.projected(self.qkv, x_BNC)
        qkv_BN3HD = qkv.view(batch, tokens, 3, self.heads, self.head_dim)
        if called:
            q, k, v = qkv_BN3HD.unbind(2)
            q, k = (norm(x).to(v.dtype) for norm, x in zip(norms, (q, k), strict=True))
            qkv_BN3HD = torch.stack([q, k, v], dim=2)
        q_weight, k_weight = (None, None) if called or not weights else weights
        cos, sin = rope if rope is not None else (None, None)
        out_BHND = ops.self_attention(
            qkv_BN3HD,
            cos,
            sin,
            q_weight=q_weight,
            k_weight=k_weight,
            bias=bias,
            layout=self.rope_layout,
            causal=self.causal,
            mask=mask,
        )
        out_BNC = out_BHND.transpose(1, 2).flatten(2)
        return self.proj(out_BNC) if project else out_BNC
