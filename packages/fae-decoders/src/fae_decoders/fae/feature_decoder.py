"""Feature decoder: latents back into the backbone's features (section 4.2; the numbers of appendix D).

    z (B, C, h, w) -> linear -> + position table -> depth x [RMSNorm, RoPE attention, RMSNorm, SwiGLU] -> features (B,
    N, D)

The width is the backbone's, so that the residual stream ends in feature space and no output projection is
needed. Small presets are narrower than their backbone and end in one (a departure that the configuration
shows: width != feature_dim).

Shape suffixes: B batch, N = h * w tokens (row-major), C width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_core.layers import AxialRope, swiglu_hidden
from fae_core.models.pretrained import PretrainedModel
from fae_core.spec import LatentSpec
from fae_decoders.fae.block import DecoderBlock, initialize, make_norm, run_blocks
from fae_decoders.fae.config import FeatureDecoderConfig


class FeatureDecoder(PretrainedModel[FeatureDecoderConfig]):
    """forward(z (B, C, h, w) normalised) -> features (B, h*w, feature_dim).

    Args:
        config: The sizes.
        spec: The latents. They are denormalised inside, so that every caller passes the same z that generators make.

    Raises:
        FAEError: There is no spec, `config.features` does not fit it, or latents have another shape.
    """

    model_type = "feature-decoder"
    config_class = FeatureDecoderConfig
    pipeline_tag = "feature-extraction"

    def __init__(self, config: FeatureDecoderConfig, spec: LatentSpec | None = None) -> None:
        super().__init__(config, spec)
        if spec is None:
            raise FAEError("a feature decoder needs the LatentSpec of the latents that it decodes: pass spec=")
        if config.features is not None and (
            config.features.dim != config.feature_dim or config.features.grid != (spec.height, spec.width)
        ):
            raise FAEError(
                f"the feature decoder makes {config.feature_dim}-dimensional features on {spec.height}x{spec.width}, "
                f"its feature space has {config.features.dim} on {config.features.grid[0]}x{config.features.grid[1]}"
            )
        hidden = config.mlp_hidden or swiglu_hidden(config.width)
        self.proj_in = nn.Linear(spec.channels, config.width)
        self.position = nn.Parameter(torch.empty(spec.height * spec.width, config.width))
        self.rope = AxialRope(spec.height, spec.width, config.width // config.heads)
        self.blocks = nn.ModuleList(
            DecoderBlock(config.width, config.heads, hidden, "rms") for _ in range(config.depth)
        )
        self.norm = make_norm("rms", config.width) if config.final_norm else nn.Identity()
        same = config.width == config.feature_dim
        self.proj_out = nn.Identity() if same else nn.Linear(config.width, config.feature_dim)
        self.gradient_checkpointing = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial weights from torch's global generator."""
        self.apply(initialize)
        nn.init.trunc_normal_(self.position, std=0.02)

    def dry_run(self, batch: int) -> Tensor:
        """A forward pass of random latents, see PretrainedModel.

        Args:
            batch: How many latents.
        """
        return self(self.dry_input(batch, *self.spec.shape))

    def forward(self, z: Tensor) -> Tensor:
        """Features (B, N, D) of normalised latents (B, C, h, w).

        Args:
            z: Normalised latents (B, C, h, w) of `spec`.
        """
        self.spec.check(z)
        tokens_BNC = self.spec.denormalize(z.float()).flatten(2).transpose(1, 2).to(self.position.dtype)
        x_BNC = self.proj_in(tokens_BNC) + self.position
        x_BNC = run_blocks(self.blocks, x_BNC, self.rope(), self.gradient_checkpointing and self.training)
        return self.proj_out(self.norm(x_BNC))
