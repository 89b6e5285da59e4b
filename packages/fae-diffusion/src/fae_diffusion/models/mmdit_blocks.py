"""The blocks of an MMDiT (Esser et al., 2024): two streams of tokens with weights of their own, joined in attention.

Shape suffixes: B batch, L text tokens, N image tokens (row-major), D width, H heads.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fae_core import ops
from fae_core.layers import MLP, RMSNorm, SelfAttention, SwiGLU
from fae_core.ops.projections import is_bare
from fae_diffusion.models.mmdit_config import MMDiTConfig

Before = tuple[Tensor | None, Tensor]  # shift and scale of the norm before attention


class After(NamedTuple):
    """What the condition does behind joint attention, each (B, D).

    Attributes:
        gate1: gate of joint attention.
        shift2: shift of the feed-forward layer.
        scale2: scale of the feed-forward layer.
        gate2: gate of the feed-forward layer.
        own_shift: shift of the stream's own attention, and below its scale and gate, where it has one.
        own_scale: see own_shift.
        own_gate: see own_shift.
    """

    gate1: Tensor
    shift2: Tensor | None
    scale2: Tensor
    gate2: Tensor
    own_shift: Tensor | None = None
    own_scale: Tensor | None = None
    own_gate: Tensor | None = None


class Stream(nn.Module):
    """One kind of tokens in a block: modulated norms, qkv, projection, feed-forward.

    Args:
        config: sizes and options.
        ends: the stream ends in this block, and gives keys and values alone.
        own: the stream has an attention of its own besides the joint one (SD3.5-medium's image tokens).
    """

    def __init__(self, config: MMDiTConfig, ends: bool = False, own: bool = False) -> None:
        super().__init__()
        width = config.width
        self.heads, self.wo_shift, self.ends = config.heads, config.wo_shift, ends
        self.norm: Literal["rms", "layer"] = config.norm
        self.pieces = 9 if own else (1 if ends else 4) if config.wo_shift else (2 if ends else 6)
        self.modulation = nn.Linear(width, self.pieces * width)
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.q_norm, self.k_norm = _head_norm(config), _head_norm(config)
        if not ends:
            self.proj = nn.Linear(width, width)
            swiglu = config.swiglu
            self.mlp = SwiGLU(width, config.mlp_hidden, bias=False) if swiglu else MLP(width, config.mlp_hidden)
        elif self.q_norm is not None:
            self.q_norm.requires_grad_(False)  # kept as the original does, and never used: processes would wait for it
        self.own_attention = _own_attention(config) if own else None

    def modulations(self, c_BD: Tensor) -> tuple[Before, After | None]:
        """What the condition does before and after attention, each (B, D); no shifts where blocks have none."""
        pieces = self.modulation(c_BD).chunk(self.pieces, dim=1)
        if self.ends:
            return (None if self.wo_shift else pieces[0], pieces[-1]), None
        if self.wo_shift:
            scale1, gate1, scale2, gate2 = pieces
            return (None, scale1), After(gate1, None, scale2, gate2)
        shift1, scale1, gate1, shift2, scale2, gate2, *own = pieces
        return (shift1, scale1), After(gate1, shift2, scale2, gate2, *own)

    def queries_keys_values(self, x: Tensor, shift: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v of the modulated tokens, each (B, H, tokens, D / H)."""
        qkv = self.qkv(self._modulate(x, shift, scale)).unflatten(-1, (3, self.heads, -1))
        if is_bare(self.q_norm, RMSNorm) and is_bare(self.k_norm, RMSNorm):
            # The queries of a stream that ends are not used.
            q_weight = None if self.ends else self.q_norm.weight
            q, k, v = ops.qk_norm_rope(qkv, q_weight=q_weight, k_weight=self.k_norm.weight, eps=self.q_norm.eps)
        else:
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            if self.q_norm is not None and self.k_norm is not None:
                q, k = self.q_norm(q), self.k_norm(k)
        return q.to(v.dtype), k.to(v.dtype), v

    def residual(self, x: Tensor, attended: Tensor, after: After) -> Tensor:
        """x + gate1 * proj(attended), then x + gate2 * mlp(modulated x); see `models.blocks.Block`."""
        out = torch.addcmul(x, after.gate1.unsqueeze(1), self.proj(attended))
        if self.own_attention is not None and after.own_scale is not None and after.own_gate is not None:
            own = self.own_attention(self._modulate(x, after.own_shift, after.own_scale))
            out = torch.addcmul(out, after.own_gate.unsqueeze(1), own)
        mlp = self.mlp(self._modulate(out, after.shift2, after.scale2))
        return torch.addcmul(out, after.gate2.unsqueeze(1), mlp)

    def _modulate(self, x: Tensor, shift: Tensor | None, scale: Tensor) -> Tensor:
        """norm(x) * (1 + scale) + shift."""
        return ops.adaln(x, scale, shift, norm=self.norm)[1]


class JointBlock(nn.Module):
    """Attention over text and image tokens together; every other layer is applied to each stream alone."""

    def __init__(self, config: MMDiTConfig, index: int) -> None:
        super().__init__()
        self.text = Stream(config, ends=index == config.depth - 1)
        self.image = Stream(config, own=index in config.own_attention)

    def forward(
        self, text_BLD: Tensor, image_BND: Tensor, c_BD: Tensor, mask: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """Both streams after this block.

        Args:
            text_BLD: text tokens.
            image_BND: image tokens.
            c_BD: SiLU of the condition.
            mask: True where a key counts, (B, 1, 1, L + N); None: all do.

        Returns:
            (text tokens, image tokens); None for the text where its stream ends.
        """
        text_before, text_after = self.text.modulations(c_BD)
        image_before, image_after = self.image.modulations(c_BD)
        text_q, text_k, text_v = self.text.queries_keys_values(text_BLD, *text_before)
        image_q, image_k, image_v = self.image.queries_keys_values(image_BND, *image_before)
        q = image_q if self.text.ends else torch.cat([text_q, image_q], dim=2)
        k, v = torch.cat([text_k, image_k], dim=2), torch.cat([text_v, image_v], dim=2)
        attended = ops.attention(q, k, v, mask=mask).transpose(1, 2).flatten(2)
        assert image_after is not None  # the image stream never ends
        image = self.image.residual(image_BND, attended[:, -image_BND.shape[1] :], image_after)
        if text_after is None:
            return None, image
        return self.text.residual(text_BLD, attended[:, : text_BLD.shape[1]], text_after), image


def _head_norm(config: MMDiTConfig) -> RMSNorm | nn.LayerNorm | None:
    """The norm of queries or keys."""
    head = config.width // config.heads
    if config.qk_norm is None:
        return None
    return RMSNorm(head) if config.qk_norm == "rms" else nn.LayerNorm(head, eps=1e-6)


def _own_attention(config: MMDiTConfig) -> SelfAttention:
    """Attention of image tokens among themselves, with norms as in joint attention."""
    attention = SelfAttention(config.width, config.heads, qk_norm=config.qk_norm or False)
    for norm in (attention.q_norm, attention.k_norm):
        if norm is not None:
            norm.eps = 1e-6
    return attention
