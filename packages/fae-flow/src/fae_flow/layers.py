"""STARFlow's transformer layer: causal attention with grouped queries, and a plain or gated MLP.

Shapes: B batch, N tokens, C width, H query heads, G key heads, D head dimension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fae_core import ops
from fae_core.layers import MLP
from fae_core.ops.rotary import Layout
from fae_flow.config import STARFlowConfig

Rope = tuple[Tensor, Tensor]


class OffsetRMSNorm(nn.Module):
    """RMS norm times (1 + weight), with weights of 0 at first (Gemma's convention)."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, 1 + self.weight, self.eps)


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)).

    Args:
        dim: width of input and output.
        hidden: width between.
        bias: biases in the three layers.
        kind: "geglu" (act is the tanh approximation of GELU) or "swiglu" (act is SiLU).
    """

    def __init__(self, dim: int, hidden: int, bias: bool, kind: str) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=bias)
        self.up = nn.Linear(dim, hidden, bias=bias)
        self.down = nn.Linear(hidden, dim, bias=bias)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        gate = F.silu(gate) if self.kind == "swiglu" else F.gelu(gate, approximate="tanh")
        return self.down(gate * self.up(x))


class CausalAttention(nn.Module):
    """Causal self-attention over a whole sequence; sampling/layer.py has the same over a cache."""

    def __init__(self, config: STARFlowConfig, width: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.heads = config.heads or width // config.head_dim
        self.kv_heads = config.kv_heads or self.heads
        self.layout: Layout = config.rope_layout
        self.qkv = nn.Linear(width, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=config.bias)
        self.proj = nn.Linear(self.heads * self.head_dim, width, bias=config.bias)
        self.q_norm = OffsetRMSNorm(self.head_dim) if config.qk_norm else None
        self.k_norm = OffsetRMSNorm(self.head_dim) if config.qk_norm else None

    def forward(self, x_BNC: Tensor, rope: Rope | None) -> Tensor:
        """(B, N, C) to (B, N, C); rope: cosines and sines (N, D / 2)."""
        batch, tokens, _ = x_BNC.shape
        packed = self.qkv(x_BNC).view(batch, tokens, self.heads + 2 * self.kv_heads, self.head_dim).transpose(1, 2)
        qk, v_BGND = packed.split((self.heads + self.kv_heads, self.kv_heads), dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk.split((self.heads, self.kv_heads), dim=1)
            qk = torch.cat([self.q_norm(q), self.k_norm(k)], dim=1)
        if rope is not None:
            qk = ops.apply_rope(qk, *rope, layout=self.layout)
        q_BHND, k_BGND = qk.split((self.heads, self.kv_heads), dim=1)
        out_BHND = ops.attention(q_BHND, k_BGND, v_BGND, causal=True)
        return self.proj(out_BHND.transpose(1, 2).reshape(batch, tokens, -1))


class FlowLayer(nn.Module):
    """x + attention(norm(x)), then + mlp(norm(x)), with optional norms after each branch."""

    def __init__(self, config: STARFlowConfig, width: int) -> None:
        super().__init__()
        hidden = int(width * config.mlp_ratio)
        self.attention_norm = _pre_norm(config, width)
        self.attention = CausalAttention(config, width)
        self.attention_post_norm = OffsetRMSNorm(width) if config.post_norm else nn.Identity()
        self.mlp_norm = _pre_norm(config, width)
        if config.mlp == "gelu":
            self.mlp: MLP | GatedMLP = MLP(width, hidden, bias=config.bias, approximate="none")
        else:
            self.mlp = GatedMLP(width, hidden, config.bias, config.mlp)
        self.mlp_post_norm = OffsetRMSNorm(width) if config.post_norm else nn.Identity()

    def forward(self, x_BNC: Tensor, rope: Rope | None) -> Tensor:
        """(B, N, C) to (B, N, C); rope as of `CausalAttention`."""
        x_BNC = x_BNC + self.attention_post_norm(self.attention(self.attention_norm(x_BNC), rope))
        return x_BNC + self.mlp_post_norm(self.mlp(self.mlp_norm(x_BNC)))


def _pre_norm(config: STARFlowConfig, width: int) -> nn.Module:
    return {"layer": nn.LayerNorm, "rms": OffsetRMSNorm, "none": nn.Identity}[config.norm](width)
