"""One diffusion transformer, from SiT to DiT^DH: patches of noisy latents in, a velocity out.

    z --patches--> linear + fixed position table --> blocks --> adaptive norm, linear --> patches back to a grid
    c = time embedding + label embedding; SiLU(c), computed once, modulates every block through one linear layer of it.

With `head`, DiT^DH (RAE, Zheng et al., 2025), the blocks' output s is not decoded. It conditions a wide and shallow
head, token by token, which sees the noisy latents themselves:

    z --patches--> linear (wide) --> wide blocks, modulated by SiLU(linear(SiLU(time + s))) --> adaptive norm, linear

The blocks are in `models.blocks`. One departure, without effect on the numbers: the patch convolution is a linear layer
on patches.

Shape suffixes: B batch, N tokens (row-major), D width, C latent channels, h x w grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fae_core.errors import FAEError
from fae_core.layers import AxialRope, LabelEmbedding, TimestepEmbedding, sincos_position_table
from fae_core.models.pretrained import PretrainedModel
from fae_core.spec import LatentSpec
from fae_diffusion.models.blocks import Block, FinalLayer, GaussianTimeEmbedding, ModulatedNorm, Rope
from fae_diffusion.models.config import HeadConfig, NetworkConfig, TransformerConfig

__all__ = ["Block", "DiffusionTransformer", "FinalLayer", "ModulatedNorm", "WideHead"]


class WideHead(nn.Module):
    """What DiT^DH has besides its blocks: the head's own view of the latents, and the way from s to its condition.

    Args:
        config: of the network.
        head: its sizes.
        spec: of the latents.
    """

    def __init__(self, config: TransformerConfig, head: HeadConfig, spec: LatentSpec) -> None:
        super().__init__()
        patch = config.patch_size
        self.patch_embedding = nn.Linear(spec.channels * patch**2, head.width)
        # As in the original, nothing where the widths agree.
        self.projection = nn.Linear(config.width, head.width) if head.width != config.width else None
        grid = (spec.height // patch, spec.width // patch)
        self.rope = AxialRope(*grid, head.width // head.heads) if config.rope else None

    def condition(self, s_BND: Tensor, time_BD: Tensor) -> Tensor:
        """SiLU of the head's condition, one for each token: (B, N, head width).

        Args:
            s_BND: what the blocks made of the latents.
            time_BD: embedding of the times.
        """
        s_BND = nn.functional.silu(time_BD[:, None] + s_BND)
        return nn.functional.silu(s_BND if self.projection is None else self.projection(s_BND))


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
        spec = require_tiled(spec, config, type(self).__name__)
        self.grid = (spec.height // patch, spec.width // patch)
        self.out_channels = spec.channels * (2 if config.learn_sigma else 1)

        self.patch_embedding = nn.Linear(spec.channels * patch**2, width)
        # Fixed, but a parameter as in the originals, which save and count it.
        table = sincos_position_table(*self.grid, width)[None] if config.position_table else None
        self.positions = None if table is None else nn.Parameter(table, requires_grad=False)
        self.time_embedding = (
            GaussianTimeEmbedding(width) if config.time_embedding == "gaussian" else TimestepEmbedding(width)
        )
        self.interval_embedding = TimestepEmbedding(width) if config.mean_flow is not None else None
        self.label_embedding = LabelEmbedding(config.classes, width, null=config.class_dropout > 0)
        self.rope = AxialRope(*self.grid, width // config.heads) if config.rope else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        head = config.head
        self.head = WideHead(config, head, spec) if head is not None else None
        if head is not None:  # in one list with the others, which is sharded and compiled block by block
            self.blocks.extend(Block(config, head) for _ in range(head.depth))
        self.final = FinalLayer(config, head.width if head is not None else width, self.out_channels * patch**2)
        self.reset_parameters()

    def forward(
        self,
        z: Tensor,
        t: Tensor | float,
        labels: Tensor,
        until: Tensor | float | None = None,
        skip: Sequence[int] = (),
    ) -> Tensor:
        """What the transport predicts.

        Args:
            z: noised latents, (B, C, h, w).
            t: times in [0, 1], (B,) or a scalar; t = 1 is noise.
            labels: (B,) in [0, classes], where `classes` itself means no class.
            until: with mean_flow the lower end r of the interval from t over which the velocity is averaged, (B,) or a
                scalar; None: t itself.
            skip: blocks to leave out, from 0; those of a wide head count on.

        Returns:
            (B, C, h, w), in the dtype of z.

        Raises:
            FAEError: where z are not latents of the spec.
        """
        self.spec.check(z)
        t = torch.as_tensor(t, dtype=torch.float32, device=z.device).expand(z.shape[0])
        patches = patchify(z.to(self.patch_embedding.weight.dtype), self.config.patch_size)
        x_BND = self.patch_embedding(patches)
        if self.positions is not None:
            x_BND = x_BND + self.positions
        time_BD = self._embed_times(t, until)
        c_BMD = nn.functional.silu(time_BD + self.label_embedding(labels))[:, None]
        if self.head is None:
            x_BND = self._run(False, x_BND, c_BMD, self.rope, skip)
        else:
            # SiLU twice, as in the original: of the sum, and again before the modulations.
            s_BND = self._run(False, x_BND, nn.functional.silu(c_BMD), self.rope, skip)
            c_BMD = self.head.condition(s_BND, time_BD)
            x_BND = self._run(True, self.head.patch_embedding(patches), c_BMD, self.head.rope, skip)
        out = unpatchify(self.final(x_BND, c_BMD), self.grid, self.config.patch_size)
        return out[:, : z.shape[1]].to(z.dtype)

    def _run(self, in_head: bool, x_BND: Tensor, c_BMD: Tensor, rope: AxialRope | None, skip: Sequence[int]) -> Tensor:
        """The residual stream after the blocks of the head, or after those before it."""
        tables: Rope = rope() if rope is not None else None
        for index, block in enumerate(self.blocks):
            if block.in_head != in_head or index in skip:
                continue
            if self.config.gradient_checkpointing and torch.is_grad_enabled():
                x_BND = checkpoint(block, x_BND, c_BMD, tables, use_reentrant=False)
            else:
                x_BND = block(x_BND, c_BMD, tables)
        return x_BND

    def _embed_times(self, t_B: Tensor, until: Tensor | float | None) -> Tensor:
        """The embedding of the times and, of a network of mean velocities, of the intervals' lengths: (B, D)."""
        if self.interval_embedding is None:
            if until is not None:
                raise FAEError("this network was trained without mean_flow: it knows no mean velocity")
            return self.time_embedding(t_B)
        length_B = torch.zeros_like(t_B) if until is None else t_B - torch.as_tensor(until, device=t_B.device)
        return self.time_embedding(t_B) + self.interval_embedding(length_B)

    def dry_run(self, batch: int) -> Tensor:
        z = self.dry_input(batch, *self.spec.shape)
        return self(z, z.new_zeros(batch), torch.zeros(batch, dtype=torch.long, device=z.device))

    def reset_parameters(self) -> None:
        """DiT's initialisation: Xavier-uniform linear layers; zeros for modulations and the output layer.

        With a head as in RAE's code, where Xavier is for the patch embeddings alone and torch's default for the rest.
        """
        if self.head is None:
            reset_linear(self)
        else:
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()
            reset_linear(self.patch_embedding)
            reset_linear(self.head.patch_embedding)
        nn.init.normal_(self.label_embedding.table.weight, std=0.02)
        reset_time_embedding(self.time_embedding)
        if isinstance(self.time_embedding, GaussianTimeEmbedding):
            nn.init.normal_(self.time_embedding.frequencies)
        if self.interval_embedding is not None:
            reset_time_embedding(self.interval_embedding)
        modulated = [module for module in self.modules() if isinstance(module, Block | FinalLayer)]
        set_to_zero(*(module.modulation for module in modulated), self.final.linear)


def require_tiled(spec: LatentSpec | None, config: NetworkConfig, model: str) -> LatentSpec:
    """The spec of the latents that a model is for.

    Raises:
        FAEError: without a spec; `model` is the name in the message.
        InvalidFile: where the patches of `config` do not tile the latents.
    """
    if spec is None:
        raise FAEError(f"{model} needs the LatentSpec of the latents that it is for: pass spec=")
    config.require_spec(spec)
    return spec


def reset_linear(module: nn.Module) -> None:
    """Set all linear layers in a module to Xavier-uniform weights and biases of zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def reset_time_embedding(embedding: TimestepEmbedding | GaussianTimeEmbedding) -> None:
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
        patch: side of a patch.

    Returns:
        (B, N, C * patch * patch): tokens row-major, channels slowest, as in the weight of a convolution.

    Raises:
        FAEError: where patches do not tile the latent.
    """
    if patch == 1:
        return z.flatten(2).transpose(1, 2)
    batch, channels, height, width = z.shape
    if height % patch or width % patch:
        raise FAEError(f"patches of {patch} do not tile latents of {height}x{width}")
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
