"""What can be chosen about an MMDiT."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fae_diffusion.guidance import Guidance
from fae_diffusion.models.config import NetworkConfig, Sampling
from fae_diffusion.samplers.config import NAMED, SamplingName
from fae_diffusion.text.config import TextEncoderConfig
from fae_diffusion.transport import Transport


class MMDiTConfig(NetworkConfig):
    """A text-conditional transformer with joint attention (SD3). By default the paper's choices, at a small size."""

    follows_data: ClassVar[frozenset[str]] = frozenset({"text_width"})

    # Appendix D: 1.5 on t = 0.9 to 0 for both text-to-image models. REPA's: what its generate_t2i.py takes by default.
    named_sampling: ClassVar[dict[SamplingName, dict[str, Any]]] = {
        **NAMED,
        "paper-guided": {
            "method": "euler",
            "steps": 250,
            "end": 0.0,
            "guidance": Guidance(scale=1.5, interval=(0.0, 0.9)),
        },
        "repa": {"method": "euler", "steps": 50, "shift": 1.0, "end": 0.0, "guidance": Guidance(scale=1.5)},
    }

    width: int = Field(default=256, ge=4, description="of a token")
    depth: int = Field(default=4, ge=1, description="number of blocks")
    heads: int = Field(default=4, ge=1, description="of the attention; they divide the width")

    text_width: int = Field(default=768, ge=1, description="of the text encoder's embeddings")
    text_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="share of prompts replaced by the null prompt in training"
    )
    null_length: int = Field(default=8, ge=1, description="room for the tokens of the null prompt")
    text_encoder: TextEncoderConfig | None = Field(
        default=None, description="what makes embeddings of prompts; None: only embeddings are taken"
    )
    pooled_width: int | None = Field(
        default=None, ge=1, description="of a pooled text vector added to the time embedding"
    )
    registers: int = Field(default=0, ge=0, description="learned tokens in front of the text")

    swiglu: bool = Field(default=True, description="feed-forward layers are SwiGLU instead of an MLP with GELU")
    rms_norm: bool = Field(default=False, description="instead of LayerNorm, without a weight, before each branch")
    qk_norm: Literal["rms", "layer"] | None = Field(default=None, description="of queries and keys; None: no norm")
    qkv_bias: bool = Field(default=True, description="of the projections to queries, keys and values")
    wo_shift: bool = Field(default=False, description="blocks modulated by scale and gate alone")
    own_attention: tuple[int, ...] = Field(
        default=(),
        description="blocks, from 0, in which image tokens also attend among themselves alone (SD3.5-medium)",
    )
    learn_sigma: bool = Field(default=False, description="twice the output channels, the second half unused")
    position_size: int | None = Field(
        default=None, ge=1, description="side of the position table, cropped in its middle; None: the grid"
    )
    time_scale: float = Field(
        default=1.0, gt=0, description="of t in the time embedding; SD3's own checkpoints have 1000"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations in the backward pass to save memory"
    )

    projection_dims: tuple[int, ...] = Field(default=(), description="REPA's heads, kept for imported checkpoints")
    projection_depth: int = Field(default=8, ge=1, description="number of the block whose image tokens they read")
    projection_hidden: int = Field(default=2048, ge=1, description="their hidden width")

    transport: Transport = Field(default=Transport(), description="what is learned, and at which times")
    sampling: Sampling = Field(default=Sampling(), description="defaults of `sample`")

    @model_validator(mode="after")
    def _projections_fit(self) -> Self:
        if self.projection_dims and self.projection_depth > self.depth:
            raise ValueError(f"projections after block {self.projection_depth} of {self.depth}")
        return self

    @model_validator(mode="after")
    def _own_attention_fits(self) -> Self:
        if any(not 0 <= index < self.depth for index in self.own_attention):
            raise ValueError(f"own_attention names blocks {list(self.own_attention)} of {self.depth}")
        if self.own_attention and (self.wo_shift or not self.qkv_bias):
            raise ValueError("own_attention needs blocks with shifts (wo_shift) and biases (qkv_bias)")
        return self

    @property
    def takes_prompts(self) -> bool | None:
        """True with a text encoder; without one the model takes embeddings, and so may what wraps it: None."""
        return True if self.text_encoder is not None else None

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the feed-forward layers; with SwiGLU two thirds, up to a multiple of 256."""
        from fae_core.layers import swiglu_hidden  # with torch, without which settings are read

        return swiglu_hidden(self.width, self.mlp_ratio, 256) if self.swiglu else int(self.width * self.mlp_ratio)

    @property
    def norm(self) -> Literal["rms", "layer"]:
        """The kind of norm before each branch."""
        return "rms" if self.rms_norm else "layer"
