"""What a diffusion transformer is built of: adaptive norms, DiT's block, the output layer, the embedding of time.

A block is DiT's (Peebles and Xie, 2023), adaLN-zero; the options are LightningDiT's (Yao et al., 2025): SwiGLU, axial
RoPE, RMSNorm with a weight, qk-norm, no shifts. The condition is one vector per sample, or one per token: the wide head
of DiT^DH (Zheng et al., 2025) is conditioned token by token.

Shape suffixes: B batch, N tokens (row-major), D width; M = 1 (one condition for all tokens) or N.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from fae_core import ops
from fae_core.layers import MLP, RMSNorm, SelfAttention, SwiGLU
from fae_diffusion.models.config import HeadConfig, TransformerConfig

Rope = tuple[Tensor, Tensor] | None


class ModulatedNorm(nn.Module):
    """A norm, scaled and shifted by the condition: norm(x) * (1 + scale) + shift; see `ops.adaln`."""

    def __init__(self, config: TransformerConfig, width: int) -> None:
        super().__init__()
        self.kind: Literal["rms", "layer"] = config.norm
        # As in the originals, RMSNorm has a weight and LayerNorm has none.
        self.weight = RMSNorm(width).weight if config.rms_norm else None

    def forward(self, x_BND: Tensor, shift_BMD: Tensor | None, scale_BMD: Tensor) -> Tensor:
        if scale_BMD.shape[1] == 1:
            shift = None if shift_BMD is None else shift_BMD[:, 0]
            return ops.adaln(x_BND, scale_BMD[:, 0], shift, weight=self.weight, norm=self.kind)[1]
        # `ops.adaln` takes one row per sample, so each token is a sample of its own.
        tokens = x_BND.reshape(-1, 1, x_BND.shape[-1])
        shift = None if shift_BMD is None else shift_BMD.flatten(0, 1)
        out = ops.adaln(tokens, scale_BMD.flatten(0, 1), shift, weight=self.weight, norm=self.kind)[1]
        return out.view_as(x_BND)


class Block(nn.Module):
    """Attention and feed-forward, each normed, modulated and gated by the condition: DiT's adaLN-zero block.

    Args:
        config: sizes and options.
        head: sizes of a block in the head of DiT^DH, instead of those in `config`.
    """

    def __init__(self, config: TransformerConfig, head: HeadConfig | None = None) -> None:
        super().__init__()
        self.in_head = head is not None
        width, heads = (config.width, config.heads) if head is None else (head.width, head.heads)
        hidden = config.hidden_of(width)
        self.norm1 = ModulatedNorm(config, width)
        self.attention = SelfAttention(width, heads, qk_norm=config.norm if config.qk_norm else False)
        self.norm2 = ModulatedNorm(config, width)
        self.mlp = SwiGLU(width, hidden) if config.swiglu else MLP(width, hidden)
        self.wo_shift = config.wo_shift
        self.modulation = nn.Linear(width, (4 if config.wo_shift else 6) * width)

    def forward(self, x_BND: Tensor, c_BMD: Tensor, rope: Rope) -> Tensor:
        """The residual stream after this block.

        Args:
            x_BND: the residual stream.
            c_BMD: SiLU of the condition.
            rope: tables (cos, sin), each (N, D / heads / 2), or None.
        """
        if self.wo_shift:
            scale1, gate1, scale2, gate2 = self.modulation(c_BMD).chunk(4, dim=-1)
            shift1 = shift2 = None
        else:
            shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c_BMD).chunk(6, dim=-1)
        # addcmul(x, gate, branch) is x + gate * branch in one pass over memory.
        x_BND = torch.addcmul(x_BND, gate1, self.attention(self.norm1(x_BND, shift1, scale1), rope))
        return torch.addcmul(x_BND, gate2, self.mlp(self.norm2(x_BND, shift2, scale2)))


class FinalLayer(nn.Module):
    """Adaptive norm and the projection to patches."""

    def __init__(self, config: TransformerConfig, width: int, outputs: int) -> None:
        super().__init__()
        self.norm = ModulatedNorm(config, width)
        self.modulation = nn.Linear(width, 2 * width)
        self.linear = nn.Linear(width, outputs)

    def forward(self, x_BND: Tensor, c_BMD: Tensor) -> Tensor:
        shift, scale = self.modulation(c_BMD).chunk(2, dim=-1)
        return self.linear(self.norm(x_BND, shift, scale))


class GaussianTimeEmbedding(nn.Module):
    """RAE's embedding of time: sines and cosines of 2 pi w t for fixed w from N(0, 1), through an MLP with SiLU.

    Args:
        dim: width of the result.
        frequencies: how many w there are.
    """

    def __init__(self, dim: int, frequencies: int = 256) -> None:
        super().__init__()
        # Never trained, but a parameter as in the original, which saves and counts it.
        self.frequencies = nn.Parameter(torch.empty(frequencies), requires_grad=False)
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        """(B, dim) of times (B,)."""
        angles = t.float()[:, None] * self.frequencies.float() * (2 * math.pi)
        features = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))
