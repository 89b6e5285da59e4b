"""What can be chosen about a network: sizes and options, its transport, and the defaults of sampling."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fae_core.config import Config
from fae_diffusion.samplers.config import Sampling as Sampling
from fae_diffusion.transport import Transport


class NetworkConfig(Config):
    """The sizes of a transformer on patches of latents, class-conditional or with text."""

    patch_size: int = Field(default=1, ge=1, description="side of a patch, in latent positions")
    width: int = Field(default=384, ge=4, description="of a token")
    depth: int = Field(default=12, ge=1, description="number of blocks")
    heads: int = Field(default=6, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0, description="hidden width of the feed-forward layers over the width")

    @model_validator(mode="after")
    def _width_divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        if self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4, which the position table needs")
        return self


class TransformerConfig(NetworkConfig):
    """A class-conditional diffusion transformer. The defaults are SiT's; `LightningDiTConfig` turns its options on."""

    classes: int = Field(default=1000, ge=1)
    class_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="0 leaves no null label: no classifier-free guidance"
    )

    swiglu: bool = Field(default=False, description="feed-forward layers are SwiGLU instead of an MLP with GELU")
    rope: bool = Field(default=False, description="rotary positions on the grid, in queries and keys")
    rms_norm: bool = Field(default=False, description="RMSNorm with a weight, instead of LayerNorm without one")
    qk_norm: bool = Field(default=False, description="RMS with rms_norm, else LayerNorm")
    wo_shift: bool = Field(default=False, description="blocks modulated by scale and gate alone")
    learn_sigma: bool = Field(
        default=False, description="twice the output channels, the second half unused (older checkpoints)"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations in the backward pass to save memory"
    )

    transport: Transport = Transport()
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _rotation_fits(self) -> Self:
        if self.rope and (self.width // self.heads) % 4:
            raise ValueError(
                f"rope on a grid needs heads of a width that is a multiple of 4, not {self.width // self.heads}"
            )
        return self

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the feed-forward layer; with SwiGLU two thirds, so that parameters stay about equal."""
        hidden = int(self.width * self.mlp_ratio)
        return int(2 / 3 * hidden) if self.swiglu else hidden

    @property
    def norm(self) -> Literal["rms", "layer"]:
        """The kind of norm before each branch."""
        return "rms" if self.rms_norm else "layer"


class SiTConfig(TransformerConfig):
    """SiT (Ma et al., 2024); with swiglu, rope and rms_norm the ladder of the paper's table 6."""


class LightningDiTConfig(TransformerConfig):
    """LightningDiT (Yao et al., 2025): SiT + SwiGLU + RoPE + RMSNorm."""

    swiglu: bool = True
    rope: bool = True
    rms_norm: bool = True
