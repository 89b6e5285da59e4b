"""One diffusion transformer, from SiT to LightningDiT: patches of noisy latents in, a velocity out.

    z --patches--> linear + fixed position table --> blocks --> adaptive norm, linear --> patches back to a grid
    c = time embedding + label embedding; SiLU(c), computed once, modulates every block through one linear layer of it.

A block is DiT's (Peebles and Xie, 2023), adaLN-zero; the options are LightningDiT's (Yao et al., 2025): SwiGLU, axial
RoPE, RMSNorm with a weight, qk-norm, no shifts. One departure, without effect on the numbers: the patch convolution is
a linear layer on patches.

Shape suffixes: B batch, N tokens (row-major), D width, C latent channels, h x w grid.
"""

from __future__ import annotations

from typing import Literal

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
    """A norm, scaled and shifted by the condition: norm(x) * (1 + scale) + shift; see `ops.adaln`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.kind: Literal["rms", "layer"] = config.norm
        # As in the originals, RMSNorm has a weight and LayerNorm has none.
        self.weight = RMSNorm(config.width).weight if config.rms_norm else None

    def forward(self, x_BND: Tensor, shift_BD: Tensor | None, scale_BD: Tensor) -> Tensor:
        return ops.adaln(x_BND, scale_BD, shift_BD, weight=self.weight, norm=self.kind)[1]


class Block(nn.Module):
    """Attention and feed-forward, each normed, modulated and gated by the condition: DiT's adaLN-zero block."""

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

    def forward(self, x_BND: Tensor, c_BD: Tensor, rope: Rope) -> Tensor:
        """The residual stream after this block.

        Args:
            x_BND: the residual stream.
            c_BD: SiLU of the condition.
            rope: tables (cos, sin), each (N, D / heads / 2), or None.
        """
        if self.wo_shift:
            scale1, gate1, scale2, gate2 = self.modulation(c_BD).chunk(4, dim=1)
            shift1 = shift2 = None
        else:
            shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c_BD).chunk(6, dim=1)
        # addcmul(x, gate, branch) is x + gate * branch in one pass over memory.
        x_BND = torch.addcmul(x_BND, gate1.unsqueeze(1), self.attention(self.norm1(x_BND, shift1, scale1), rope))
        return torch.addcmul(x_BND, gate2.unsqueeze(1), self.mlp(self.norm2(x_BND, shift2, scale2)))


class FinalLayer(nn.Module):
    """Adaptive norm and the projection to patches."""

    def __init__(self, config: TransformerConfig, outputs: int) -> None:
        super().__init__()
        self.norm = ModulatedNorm(config)
        self.modulation = nn.Linear(config.width, 2 * config.width)
        self.linear = nn.Linear(config.width, outputs)

    def forward(self, x_BND: Tensor, c_BD: Tensor) -> Tensor:
        shift, scale = self.modulation(c_BD).chunk(2, dim=1)
        return self.linear(self.norm(x_BND, shift, scale))


class DiffusionTransformer(PretrainedModel[TransformerConfig]):
    """The network.

    Args:
        config: sizes and options.
        spec: of the latents that the model is for; its height and width are multiples of the patch size.

    Raises:
        FAEError: without a spec.
        InvalidFile: where patches do not tile the latents.
    """

    pipeline_tag = "unconditional-image-generation"  # the hub has no name for one by class
    config: TransformerConfig

    def __init__(self, config: TransformerConfig, spec: LatentSpec | None = None) -> None:
        super().__init__(config, spec)
        patch, width = config.patch_size, config.width
        spec = require_tiled(spec, patch, type(self).__name__)
        self.grid = (spec.height // patch, spec.width // patch)
        self.out_channels = spec.channels * (2 if config.learn_sigma else 1)

        self.patch_embedding = nn.Linear(spec.channels * patch**2, width)
        # Fixed, but a parameter as in the originals, which save and count it.
        self.positions = nn.Parameter(sincos_position_table(*self.grid, width)[None], requires_grad=False)
        self.time_embedding = TimestepEmbedding(width)
        self.label_embedding = LabelEmbedding(config.classes, width, null=config.class_dropout > 0)
        self.rope = AxialRope(*self.grid, width // config.heads) if config.rope else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final = FinalLayer(config, self.out_channels * patch**2)
        self.reset_parameters()

    def forward(self, z: Tensor, t: Tensor | float, labels: Tensor) -> Tensor:
        """What the transport predicts.

        Args:
            z: noised latents, (B, C, h, w).
            t: times in [0, 1], (B,) or a scalar; t = 1 is noise.
            labels: (B,) in [0, classes], where `classes` itself means no class.

        Returns:
            (B, C, h, w), in the dtype of z.
        """
        t = torch.as_tensor(t, dtype=torch.float32, device=z.device).expand(z.shape[0])
        dtype = self.patch_embedding.weight.dtype
        x_BND = self.patch_embedding(patchify(z.to(dtype), self.config.patch_size)) + self.positions
        c_BD = nn.functional.silu(self.time_embedding(t) + self.label_embedding(labels))
        rope = self.rope() if self.rope is not None else None
        for block in self.blocks:
            if self.config.gradient_checkpointing and torch.is_grad_enabled():
                x_BND = checkpoint(block, x_BND, c_BD, rope, use_reentrant=False)
            else:
                x_BND = block(x_BND, c_BD, rope)
        out = unpatchify(self.final(x_BND, c_BD), self.grid, self.config.patch_size)
        return out[:, : z.shape[1]].to(z.dtype)

    def dry_run(self, batch: int) -> Tensor:
        z = self.dry_input(batch, *self.spec.shape)
        return self(z, z.new_zeros(batch), torch.zeros(batch, dtype=torch.long, device=z.device))

    def reset_parameters(self) -> None:
        """DiT's initialisation: Xavier-uniform linear layers; zeros for modulations and the output layer."""
        reset_linear(self)
        nn.init.normal_(self.label_embedding.table.weight, std=0.02)
        reset_time_embedding(self.time_embedding)
        modulated = [module for module in self.modules() if isinstance(module, Block | FinalLayer)]
        set_to_zero(*(module.modulation for module in modulated), self.final.linear)


def require_tiled(spec: LatentSpec | None, patch: int, model: str) -> LatentSpec:
    """The spec of the latents that a model is for.

    Raises:
        FAEError: without a spec; `model` is the name in the message.
        InvalidFile: where patches of side `patch` do not tile the latents.
    """
    if spec is None:
        raise FAEError(f"{model} needs the LatentSpec of the latents that it is for: pass spec=")
    if spec.height % patch or spec.width % patch:
        raise InvalidFile(f"patches of {patch} do not tile latents of {spec.height}x{spec.width}")
    return spec


def reset_linear(module: nn.Module) -> None:
    """Set all linear layers in a module to Xavier-uniform weights and biases of zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def reset_time_embedding(embedding: TimestepEmbedding) -> None:
    """Set the weights of the time embedding as DiT does: normal, deviation 0.02."""
    for layer in embedding.mlp:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)


def set_to_zero(*layers: nn.Linear) -> None:
    """Set weights and biases to zero."""
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def patchify(z: Tensor, patch: int) -> Tensor:
    """The patches of a latent as tokens.

    Args:
        z: (B, C, h, w).
        patch: side of a patch, a divisor of h and w.

    Returns:
        (B, N, C * patch * patch): tokens row-major, channels slowest, as in the weight of a convolution.
    """
    if patch == 1:
        return z.flatten(2).transpose(1, 2)
    batch, channels, height, width = z.shape
    z = z.view(batch, channels, height // patch, patch, width // patch, patch)
    return z.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch * patch)


def unpatchify(tokens: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """The latent of the output tokens, whose channels vary fastest, as in DiT's output layer.

    Args:
        tokens: (B, N, patch * patch * C), row-major.
        grid: (rows, columns) of patches.
        patch: side of a patch.

    Returns:
        (B, C, rows * patch, columns * patch).
    """
    batch = tokens.shape[0]
    tokens = tokens.view(batch, *grid, patch, patch, -1)
    return tokens.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, grid[0] * patch, grid[1] * patch)
