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
from fae_core.ops.projections import with_bias_gradient
from fae_diffusion.models.config import HeadConfig, TransformerConfig

Rope = tuple[Tensor, Tensor] | None


class ModulatedNorm(nn.Module):
    """A norm, scaled and shifted by the condition: norm(x) * (1 + scale) + shift; see `ops.adaln`."""

    def __init__(self, config: TransformerConfig, width: int) -> None:
        super().__init__()
        self.kind: Literal["rms", "layer"] = config.norm
        # As in the originals, RMSNorm has a weight and LayerNorm has none.
        self.weight = RMSNorm(width).weight if config.rms_norm else None

    def forward(
        self,
        x_BND: Tensor,
        shift_BMD: Tensor | None,
        scale_BMD: Tensor,
        *,
        update_BND: Tensor | None = None,
        bias_D: Tensor | None = None,
        gate_BMD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The residual stream, x + gate * update, and its norm, modulated.

        Args:
            x_BND: the residual stream.
            shift_BMD: added after the norm; None: nothing.
            scale_BMD: of the norm.
            update_BND: output of the branch before; None: the residual stream is x.
            bias_D: as `update_bias` of `ops.adaln`.
            gate_BMD: factor of the update; given where that is.
        """
        options = {"weight": self.weight, "norm": self.kind}
        if scale_BMD.shape[1] == 1:
            gate, scale, shift = (None if row is None else row[:, 0] for row in (gate_BMD, scale_BMD, shift_BMD))
            return ops.adaln(x_BND, scale, shift, update=update_BND, update_bias=bias_D, gate=gate, **options)
        if update_BND is not None and gate_BMD is not None:
            x_BND = torch.addcmul(x_BND, gate_BMD, with_bias_gradient(update_BND, bias_D))
        # `ops.adaln` takes one row per sample, so each token is a sample of its own.
        tokens = x_BND.reshape(-1, 1, x_BND.shape[-1])
        shift = None if shift_BMD is None else shift_BMD.flatten(0, 1)
        return x_BND, ops.adaln(tokens, scale_BMD.flatten(0, 1), shift, **options)[1].view_as(x_BND)


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
        x_BND, normed_BND = self.norm1(x_BND, shift1, scale1)
        attended_BND = self.attention(normed_BND, rope, project=False)
        update_BND, bias_D = ops.projected(self.attention.proj, attended_BND)
        x_BND, normed_BND = self.norm2(x_BND, shift2, scale2, update_BND=update_BND, bias_D=bias_D, gate_BMD=gate1)
        # addcmul(x, gate, branch) is x + gate * branch in one pass over memory.
        return torch.addcmul(x_BND, gate2, self.mlp(normed_BND))


class FinalLayer(nn.Module):
    """Adaptive norm and the projection to patches."""

    def __init__(self, config: TransformerConfig, width: int, outputs: int) -> None:
        super().__init__()
        self.norm = ModulatedNorm(config, width)
        self.modulation = nn.Linear(width, 2 * width)
        self.linear = nn.Linear(width, outputs)

    def forward(self, x_BND: Tensor, c_BMD: Tensor) -> Tensor:
        shift, scale = self.modulation(c_BMD).chunk(2, dim=-1)
        return self.linear(self.norm(x_BND, shift, scale)[1])


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
