"""One diffusion transformer, from SiT to LightningDiT: patches of noisy latents in, a velocity out.

    z --patches--> linear + fixed position table --> blocks --> adaptive norm, linear --> patches back to a grid
    c = time embedding + label embedding; SiLU(c) modulates every block: computed once, each block adds one linear layer.

A block is DiT's (Peebles and Xie, 2023), adaLN-zero; the options are LightningDiT's (Yao et al., 2025): SwiGLU, axial RoPE,
RMSNorm with a weight, qk-norm, no shifts. Departures, without effect on the numbers: the patch convolution is a linear layer
on patches, and a block hands its last branch on unadded, so that gate, residual and the next norm are one operation.

Shape suffixes: B batch, N tokens (row-major), D width, C latent channels, h x w grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fae_core import ops
from fae_core.errors import FAEError, InvalidFile
from fae_core.layers import (
    MLP,
    AxialRope,
    LabelEmbedding,
    RMSNorm,
    SelfAttention,
    SwiGLU,
    TimestepEmbedding,
    sincos_position_table,
)
from fae_core.models.pretrained import PretrainedModel
from fae_core.spec import LatentSpec
from fae_diffusion.models.config import TransformerConfig

Rope = tuple[Tensor, Tensor] | None


class ModulatedNorm(nn.Module):
    """gate * branch added to the residual stream, then normed, scaled and shifted; see `ops.adaln`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.kind = config.norm
        # LayerNorm goes without a weight, RMSNorm has one: as in the originals.
        self.weight = RMSNorm(config.width).weight if config.rms_norm else None

    def forward(
        self, x_BND: Tensor, scale: Tensor, shift: Tensor | None, branch: Tensor | None, gate: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return ops.adaln(x_BND, scale, shift, update=branch, gate=gate, weight=self.weight, norm=self.kind)


class Block(nn.Module):
    """Attention and feed-forward, each normed, modulated and gated by the condition."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        qk_norm = config.norm if config.qk_norm else False
        self.norm1 = ModulatedNorm(config)
        self.attention = SelfAttention(width, config.heads, qk_norm=qk_norm)
        self.norm2 = ModulatedNorm(config)
        self.mlp = SwiGLU(width, config.mlp_hidden) if config.swiglu else MLP(width, config.mlp_hidden)
        self.wo_shift = config.wo_shift
        self.modulation = nn.Linear(width, (4 if config.wo_shift else 6) * width)

    def forward(
        self, x_BND: Tensor, branch: Tensor | None, gate: Tensor | None, c_BD: Tensor, rope: Rope
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(stream, branch and gate not yet added to it) -> the same after this block. c_BD: SiLU of the condition."""
        if self.wo_shift:
            scale1, gate1, scale2, gate2 = self.modulation(c_BD).chunk(4, dim=1)
            shift1 = shift2 = None
        else:
            shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c_BD).chunk(6, dim=1)
        x_BND, h_BND = self.norm1(x_BND, scale1, shift1, branch, gate)
        x_BND, h_BND = self.norm2(x_BND, scale2, shift2, self.attention(h_BND, rope), gate1)
        return x_BND, self.mlp(h_BND), gate2


class FinalLayer(nn.Module):
    """Adaptive norm and the projection to patches."""

    def __init__(self, config: TransformerConfig, outputs: int) -> None:
        super().__init__()
        self.norm = ModulatedNorm(config)
        self.modulation = nn.Linear(config.width, 2 * config.width)
        self.linear = nn.Linear(config.width, outputs)

    def forward(self, x_BND: Tensor, branch: Tensor, gate: Tensor, c_BD: Tensor) -> Tensor:
        shift, scale = self.modulation(c_BD).chunk(2, dim=1)
        return self.linear(self.norm(x_BND, scale, shift, branch, gate)[1])


class DiffusionTransformer(PretrainedModel[TransformerConfig]):
    """The network. forward(z (B, C, h, w), t, labels) -> what the transport predicts, (B, C, h, w) in z's dtype.

    t: (B,) or a scalar in [0, 1], t = 1 is noise. labels: (B,) in [0, classes], `classes` itself meaning none.
    """

    config: TransformerConfig

    def __init__(self, config: TransformerConfig, spec: LatentSpec | None = None) -> None:
        super().__init__(config, spec)
        if spec is None:
            raise FAEError(f"{type(self).__name__} needs the LatentSpec of the latents that it is for: pass spec=")
        patch, width = config.patch_size, config.width
        if spec.height % patch or spec.width % patch:
            raise InvalidFile(f"patches of {patch} do not tile latents of {spec.height}x{spec.width}")
        self.grid = (spec.height // patch, spec.width // patch)
        self.out_channels = spec.channels * (2 if config.learn_sigma else 1)

        self.patch_embedding = nn.Linear(spec.channels * patch**2, width)
        # Fixed, but a parameter: it is saved and counted like the originals'.
        self.positions = nn.Parameter(sincos_position_table(*self.grid, width)[None], requires_grad=False)
        self.time_embedding = TimestepEmbedding(width)
        self.label_embedding = LabelEmbedding(config.classes, width, null=config.class_dropout > 0)
        self.rope = AxialRope(*self.grid, width // config.heads) if config.rope else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final = FinalLayer(config, self.out_channels * patch**2)
        self.reset_parameters()

    def forward(self, z: Tensor, t: Tensor | float, labels: Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float32, device=z.device).expand(len(z))
        dtype = self.patch_embedding.weight.dtype
        x_BND = self.patch_embedding(patchify(z.to(dtype), self.config.patch_size)) + self.positions
        c_BD = nn.functional.silu(self.time_embedding(t) + self.label_embedding(labels))
        rope = self.rope() if self.rope is not None else None
        branch = gate = None
        for block in self.blocks:
            if self.config.gradient_checkpointing and torch.is_grad_enabled():
                x_BND, branch, gate = checkpoint(block, x_BND, branch, gate, c_BD, rope, use_reentrant=False)
            else:
                x_BND, branch, gate = block(x_BND, branch, gate, c_BD, rope)
        out = unpatchify(self.final(x_BND, branch, gate, c_BD), self.grid, self.config.patch_size)
        return out[:, : z.shape[1]].to(z.dtype)

    def dry_run(self, batch: int) -> Tensor:
        z = self.dry_input(batch, *self.spec.shape)
        return self(z, z.new_zeros(batch), torch.zeros(batch, dtype=torch.long, device=z.device))

    def reset_parameters(self) -> None:
        """DiT's initialisation: Xavier-uniform linear layers, and zeros where a block's branch or the output begins."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.label_embedding.table.weight, std=0.02)
        for layer in (self.time_embedding.mlp[0], self.time_embedding.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (*(block.modulation for block in self.blocks), self.final.modulation, self.final.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


def patchify(z: Tensor, patch: int) -> Tensor:
    """(B, C, h, w) -> (B, N, C * patch * patch): tokens row-major, channels slowest, as a convolution's weight has them."""
    if patch == 1:
        return z.flatten(2).transpose(1, 2)
    batch, channels, height, width = z.shape
    z = z.view(batch, channels, height // patch, patch, width // patch, patch)
    return z.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch * patch)


def unpatchify(tokens: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """(B, N, patch * patch * C) -> (B, C, h, w); channels fastest, as DiT's output layer has them."""
    batch = len(tokens)
    tokens = tokens.view(batch, *grid, patch, patch, -1)
    return tokens.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, grid[0] * patch, grid[1] * patch)
