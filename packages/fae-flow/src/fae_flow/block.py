"""FlowBlock: an affine map of each token, whose mean and scale are computed from the tokens before it.

    density:  z_t = (x_t - mean_t) / sigma_t,   (mean_t, sigma_t) = transformer(condition, x_0 .. x_{t-1})
    sampling: x_t = z_t * sigma_t + mean_t, one token after the other

Shapes: B batch, T tokens in the block's own order, K channels of a token, C width, L prefix tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fae_flow.config import STARFlowConfig
from fae_flow.layers import FlowLayer, OffsetRMSNorm, Rope

# softplus(x + this) = 1 at x = 0.
SOFTPLUS_OFFSET = 0.541324854612918
# Below this, log(softplus(x)) is x to fp32's precision, and softplus itself underflows soon after.
_SOFTPLUS_TAIL = -15.0


class FlowBlock(nn.Module):
    """An autoregressive affine map.

    Args:
        config: the model's configuration.
        channels: K, channels of a token.
        tokens: T, tokens of the spec's grid.
        layers: number of transformer layers.
        top: whether this is the top block, which has its own width and always sees the condition.
        flip: run from the last token of the raster to the first.
    """

    layers: Sequence[FlowLayer]

    def __init__(self, config: STARFlowConfig, channels: int, tokens: int, layers: int, *, top: bool, flip: bool):
        super().__init__()
        width = (config.top_width or config.width) if top else config.width
        conditional = config.conditional and (top or not config.condition_top_only)
        self.flip = flip
        self.scale, self.soft_clip = config.scale, config.soft_clip
        self.gradient_checkpointing = config.gradient_checkpointing
        self.proj_in = nn.Linear(channels, width)
        self.proj_out = nn.Linear(width, 2 * channels)
        self.sos = nn.Parameter(torch.empty(channels)) if config.sos else None
        self.position = None if config.rope else nn.Parameter(torch.empty(tokens, width))
        self.labels = nn.Embedding(config.classes + 1, width) if conditional and config.classes else None
        self.text = nn.Linear(config.text_dim, width) if conditional and config.text_dim else None
        self.layers = cast("Sequence[FlowLayer]", nn.ModuleList(FlowLayer(config, width) for _ in range(layers)))
        self.final_norm = OffsetRMSNorm(width) if config.final_norm else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the map as the identity: mean 0, sigma 1."""
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)
        if self.sos is not None:
            nn.init.normal_(self.sos)
        if self.position is not None:
            nn.init.normal_(self.position, std=1e-2)
        if self.labels is not None:
            nn.init.normal_(self.labels.weight, std=0.02)

    @property
    def conditional(self) -> bool:
        """Whether the block sees the condition."""
        return self.labels is not None or self.text is not None

    def prefix(self, condition: Tensor | None) -> Tensor | None:
        """The condition as tokens.

        Args:
            condition: labels (B,) or embeddings (B, L, text_dim); None only for a block that sees no condition.

        Returns:
            (B, L, C), L = 1 for labels; None if the block sees no condition.
        """
        if self.labels is not None:
            return self.labels(condition).unsqueeze(1)
        if self.text is not None:
            assert condition is not None
            return self.text(condition.to(self.text.weight.dtype))
        return None

    def order(self, tokens: Tensor) -> Tensor:
        """Tokens on axis -2 from raster order to the block's order, or back."""
        return tokens.flip(-2) if self.flip else tokens

    def forward(self, x_BTK: Tensor, condition: Tensor | None, rope: Rope | None) -> tuple[Tensor, Tensor]:
        """Density direction.

        Args:
            x_BTK: tokens in the block's order.
            condition: as of `prefix`.
            rope: tables of prefix and grid; a block that sees no condition takes those of the grid.

        Returns:
            z and log sigma, (B, T, K) fp32 each.
        """
        batch, tokens, _ = x_BTK.shape
        x_BTK = x_BTK.float()
        inputs = x_BTK
        if self.sos is not None:
            inputs = torch.cat([self.sos.to(x_BTK.dtype).expand(batch, 1, -1), x_BTK[:, :-1]], dim=1)
        hidden = self.proj_in(inputs.to(self.proj_in.weight.dtype))
        if self.position is not None:
            hidden = hidden + self.order(self.position)
        prefix = self.prefix(condition)
        if prefix is not None:
            hidden = torch.cat([prefix.to(hidden.dtype), hidden], dim=1)
        if rope is not None:
            rope = (rope[0][-hidden.shape[1] :], rope[1][-hidden.shape[1] :])
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                hidden = checkpoint(layer, hidden, rope, use_reentrant=False)
            else:
                hidden = layer(hidden, rope)
        mean, log_sigma = affine(self.proj_out(self.final_norm(hidden[:, -tokens:])), self.scale, self.soft_clip)
        if self.sos is None:
            # Output t is for token t + 1; the first token has no predecessor and stays as it is.
            mean, log_sigma = (F.pad(value[:, :-1], (0, 0, 1, 0)) for value in (mean, log_sigma))
        return (x_BTK - mean) * torch.exp(-log_sigma), log_sigma


def affine(out: Tensor, scale: str, soft_clip: float) -> tuple[Tensor, Tensor]:
    """Mean and log sigma from a block's output.

    Args:
        out: (..., 2K), of any floating type.
        scale: "exp" or "softplus", as in STARFlowConfig.
        soft_clip: bound of a soft clip on the output; 0 = off.

    Returns:
        Mean and log sigma, (..., K) fp32 each.
    """
    out = out.float()
    if soft_clip:
        out = soft_clip * torch.tanh(out / soft_clip)
    raw, mean = out.chunk(2, dim=-1)
    return mean, log_softplus(raw + SOFTPLUS_OFFSET) if scale == "softplus" else raw


def log_softplus(x: Tensor) -> Tensor:
    """log(softplus(x)), finite and differentiable for any negative x."""
    return F.softplus(x.clamp(min=_SOFTPLUS_TAIL)).log() + (x.clamp(max=_SOFTPLUS_TAIL) - _SOFTPLUS_TAIL)
