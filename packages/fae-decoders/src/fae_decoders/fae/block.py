"""The transformer block that both decoders stack, and how a stack runs.

Shape suffixes: B batch, N tokens, C width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fae_core import ops
from fae_core.layers import RMSNorm, SelfAttention, SwiGLU
from fae_core.ops.projections import is_bare

Norm = Literal["rms", "layer"]
Rope = tuple[Tensor, Tensor]


def make_norm(kind: Norm, dim: int) -> nn.Module:
    """A norm with a learned scale (LayerNorm: and shift)."""
    return RMSNorm(dim) if kind == "rms" else nn.LayerNorm(dim, eps=1e-6)


class DecoderBlock(nn.Module):
    """x + attention(norm(x)), then x + swiglu(norm(x)): a pre-norm block with biases on every projection.

    Args:
        dim: Width C.
        heads: Attention heads.
        hidden: SwiGLU's hidden width.
        norm: RMSNorm or LayerNorm.
    """

    def __init__(self, dim: int, heads: int, hidden: int, norm: Norm) -> None:
        super().__init__()
        self.norm1 = make_norm(norm, dim)
        self.attention = SelfAttention(dim, heads)
        self.norm2 = make_norm(norm, dim)
        self.mlp = SwiGLU(dim, hidden)

    def forward(self, x_BNC: Tensor, rope: Rope | None = None) -> Tensor:
        """(B, N, C) to the same shape; `rope` is what AxialRope gives."""
        if is_bare(self.norm2, RMSNorm):
            attended_BNC = self.attention(self.norm1(x_BNC), rope, project=False)
            update_BNC, bias_C = ops.projected(self.attention.proj, attended_BNC)
            norm = {"weight": self.norm2.weight, "eps": self.norm2.eps}
            x_BNC, normed_BNC = ops.adaln(x_BNC, None, update=update_BNC, update_bias=bias_C, **norm)
        else:
            x_BNC = x_BNC + self.attention(self.norm1(x_BNC), rope)
            normed_BNC = self.norm2(x_BNC)
        return x_BNC + self.mlp(normed_BNC)


def run_blocks(blocks: nn.ModuleList, x_BNC: Tensor, rope: Rope | None, recompute: bool) -> Tensor:
    """Every block in turn.

    Args:
        blocks: Each is called as block(x, rope).
        x_BNC: The first one's input.
        rope: What AxialRope gives, or None.
        recompute: Keep only the blocks' inputs for the backward pass (gradient checkpointing).
    """
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            x_BNC = checkpoint(block, x_BNC, rope, use_reentrant=False)
        else:
            x_BNC = block(x_BNC, rope)
    return x_BNC


def initialize(module: nn.Module) -> None:
    """Xavier-uniform matrices and zero biases, as ViT and MAE start; other parameters stay as they are."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
