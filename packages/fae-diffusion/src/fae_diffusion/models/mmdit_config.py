"""What can be chosen about an MMDiT."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fae_core.config import Config
from fae_core.layers import swiglu_hidden
from fae_diffusion.models.config import Sampling
from fae_diffusion.text.config import TextEncoderConfig
from fae_diffusion.transport import Transport


class MMDiTConfig(Config):
    """A text-conditional transformer with joint attention (SD3). The defaults are the paper's choices, at a small size."""

    patch_size: int = Field(1, ge=1)
    width: int = Field(256, ge=4)
    depth: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)

    text_width: int = Field(768, ge=1, description="of the text encoder's embeddings")
    text_dropout: float = Field(0.1, ge=0, lt=1, description="share of prompts replaced by the null prompt in training")
    null_length: int = Field(8, ge=1, description="room for the tokens of the null prompt")
    text_encoder: TextEncoderConfig | None = None
    pooled_width: int | None = Field(None, ge=1, description="of a pooled text vector added to the time embedding")
    registers: int = Field(0, ge=0, description="learned tokens in front of the text")

    swiglu: bool = True
    rms_norm: bool = Field(False, description="instead of LayerNorm, without a weight, before each branch")
    qk_norm: Literal["rms", "layer"] | None = None
    qkv_bias: bool = True
    wo_shift: bool = Field(False, description="blocks modulated by scale and gate alone")
    learn_sigma: bool = Field(False, description="twice the output channels, the second half unused")
    position_size: int | None = Field(
        None, ge=1, description="side of the position table, cropped in its middle; None: the grid"
    )
    time_scale: float = Field(1.0, gt=0, description="of t in the time embedding; SD3's own checkpoints have 1000")
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass to save memory")

    projection_dims: tuple[int, ...] = Field((), description="REPA's heads, kept for imported checkpoints")
    projection_depth: int = Field(8, ge=1)
    projection_hidden: int = Field(2048, ge=1)

    transport: Transport = Transport()
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        if self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4, which the position table needs")
        if self.projection_dims and self.projection_depth > self.depth:
            raise ValueError(f"projections after block {self.projection_depth} of {self.depth}")
        return self

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the feed-forward layers; with SwiGLU two thirds, up to a multiple of 256."""
        return swiglu_hidden(self.width, self.mlp_ratio, 256) if self.swiglu else int(self.width * self.mlp_ratio)
