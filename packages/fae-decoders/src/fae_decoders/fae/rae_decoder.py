"""RAE's pixel decoder (Zheng et al., 2025): MAE's decoder on every patch's features, with its own class token.

    features -> linear -> [class token, tokens] + fixed sin-cos positions -> depth x [LayerNorm, attention, LayerNorm,
    MLP] -> LayerNorm -> linear -> pixels, of which the class token's are dropped

Published for DINOv2-B with registers, SigLIP2-B and MAE-B, by RAE's authors and in diffusers' AutoencoderRAE;
`fae import rae` reads both. Those decoders were trained on features after the backbone's last LayerNorm without its
learned scale and shift: an encoder with `norm_affine: false`.

Shape suffixes: B batch, N = h * w tokens (row-major), C width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from fae_core.config import parse_config
from fae_core.layers import MLP, Fp32Buffers, SelfAttention, sincos_position_table
from fae_core.models.folder import load_state
from fae_core.models.no_init import no_initial_weights
from fae_core.models.pretrained import PretrainedModel
from fae_core.spec import LatentSpec
from fae_decoders.fae.block import initialize, run_blocks
from fae_decoders.fae.config import RAEDecoderConfig
from fae_decoders.official.rae import translate_rae_decoder


class RAEBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with LayerNorms and an exact GELU: a ViT's block."""

    def __init__(self, config: RAEDecoderConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attention = SelfAttention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config.width, config.mlp_hidden, approximate="none")

    def forward(self, x_BNC: Tensor, rope: None = None) -> Tensor:
        """(B, N, C) to the same shape; `rope` is there for `run_blocks` alone."""
        x_BNC = x_BNC + self.attention(self.norm1(x_BNC))
        return x_BNC + self.mlp(self.norm2(x_BNC))


class RAEDecoder(Fp32Buffers, PretrainedModel[RAEDecoderConfig]):
    """forward(features (B, N, D)) -> images (B, 3, H, W), roughly in [0, 1] and not clamped, as PixelDecoder's.

    Args:
        config: The sizes.
        spec: Not used: a pixel decoder does not depend on the latents.

    Raises:
        FAEError: Features have another shape.
    """

    model_type = "rae-decoder"
    config_class = RAEDecoderConfig
    needs_spec = False
    pipeline_tag = "image-to-image"
    position: Tensor

    def __init__(self, config: RAEDecoderConfig, spec: LatentSpec | None = None) -> None:
        super().__init__(config, spec)
        self.proj_in = nn.Linear(config.feature_dim, config.width)
        self.class_token = nn.Parameter(torch.zeros(config.width))
        self.register_tables(persistent=True)
        self.blocks = nn.ModuleList(RAEBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.proj_out = nn.Linear(config.width, 3 * config.patch[0] * config.patch[1])
        self.gradient_checkpointing = False
        self.apply(initialize)

    @classmethod
    def from_official(
        cls,
        state_dict: Mapping[str, Tensor],
        config: Mapping[str, Any] | None = None,
        *,
        pixel_mean: tuple[float, float, float] | None = None,
        pixel_std: tuple[float, float, float] | None = None,
    ) -> Self:
        """The decoder in a state dict of RAE's own code or of diffusers' AutoencoderRAE, in eval mode.

        Args:
            state_dict: Of a decoder alone or of a whole RAE.
            config: Content of the original's config.json, needed for other widths than the released ones, and for
                diffusers' grids other than 16x16.
            pixel_mean: Of the scale of its output; None for that in the state dict (diffusers'), or else ImageNet's
                (DINOv2, MAE); SigLIP2 has 0.5 each.
            pixel_std: As `pixel_mean`.

        Raises:
            InvalidFile: It is something else, or has a structure that is not supported.
        """
        fields, state = translate_rae_decoder(state_dict, config or {})
        scale = {"pixel_mean": pixel_mean, "pixel_std": pixel_std}
        fields |= {name: value for name, value in scale.items() if value is not None}
        with no_initial_weights():
            decoder = cls(parse_config(RAEDecoderConfig, fields, "RAE's decoder"))
        # Conversions of the original leave its fixed table out.
        state.setdefault("position", decoder.position)
        load_state(decoder, state, "the checkpoint")
        return decoder.eval()

    def tables(self) -> dict[str, Tensor]:
        """The fixed positions (1 + N, C)."""
        table = sincos_position_table(*self.config.grid, self.config.width)
        return {"position": torch.cat([torch.zeros(1, self.config.width), table])}  # row 0 is the class token's

    def dry_run(self, batch: int) -> Tensor:
        """A forward pass of random features, see PretrainedModel.

        Args:
            batch: How many images.
        """
        return self(self.dry_input(batch, len(self.position) - 1, self.config.feature_dim))

    @property
    def last_layer(self) -> Tensor:
        """The last weight before the image; the adversarial term's adaptive weight compares gradients there."""
        return self.proj_out.weight

    def forward(self, features: Tensor) -> Tensor:
        """Images (B, 3, H, W) of features (B, N, D), not clamped.

        Args:
            features: Normalised features (B, N, D), original or rebuilt.
        """
        self.config.check(features)
        x_BNC = self.proj_in(features.to(self.class_token.dtype))
        x_BNC = torch.cat([self.class_token.expand(x_BNC.shape[0], 1, -1), x_BNC], dim=1) + self.position.to(
            x_BNC.dtype
        )
        x_BNC = run_blocks(self.blocks, x_BNC, None, self.gradient_checkpointing and self.training)
        patches = self.proj_out(self.norm(x_BNC))[:, 1:]
        (h, w), (ph, pw) = self.config.grid, self.config.patch
        images = rearrange(patches, "b (h w) (ph pw c) -> b c (h ph) (w pw)", h=h, w=w, ph=ph, pw=pw)
        mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (self.config.pixel_mean, self.config.pixel_std))
        return images * std + mean
