"""What a STARFlow is made of."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fae_core.config import Config

# Rotations that the original keeps for the text axis as soon as a model can see text.
TEXT_FREQUENCIES = 8


class STARFlowConfig(Config):
    """Fields of a STARFlow; the latents' shape comes from the LatentSpec.

    layers: transformer layers of each block in the direction of density, so the last number is the deep top block; a
        block of 0 layers is the identity.
    top_width: width of the top block where it differs. heads, kv_heads: width / head_dim and heads where None.
    mlp: "gelu" (exact), "geglu" (tanh GELU times a gate; the original names it SwiGLU) or "swiglu" (SiLU gate).
    norm: pre-norm; "rms" multiplies by 1 + weight. post_norm, final_norm, qk_norm: RMS norms of the same kind.
    rope: axial rotary positions, else a learned table per block. rope_length: side that positions are scaled to, by
        default that of the grid. rope_layout: which entries form a rotated pair.
    sos: a learned first input, so that the first token is transformed too; without it a block keeps its first token.
    scale: sigma = exp(a) or softplus(a + 0.5413), both 1 at a = 0. soft_clip: c * tanh(. / c) on a and the mean; 0 = off.
    order: direction of the blocks, alternating: "R2L" leaves the first block in raster order, "L2R" reverses it.
    classes: class-conditional, with label `classes` as the null class. text_dim: conditional on embeddings of that width.
        text_tokens: their usual number; above 0 it reserves rotations for the text axis.
    condition_top_only: only the top block sees the condition. label_dropout: share of samples trained without it.
    noise_std: standard deviation of the noise added to latents in training, in units of normalised latents.
    regularization: weight of the mean squared input of each block.
    denoise: whether `sample` ends with a Tweedie step unless told otherwise.
    """

    width: int = Field(256, gt=0)
    layers: tuple[int, ...] = Field((2, 2, 6), min_length=1, max_length=64)
    top_width: int | None = Field(None, gt=0)
    head_dim: int = Field(64, gt=0)
    heads: int | None = Field(None, gt=0)
    kv_heads: int | None = Field(None, gt=0)
    patch_size: int = Field(1, gt=0)
    mlp: Literal["gelu", "geglu", "swiglu"] = "gelu"
    mlp_ratio: float = Field(4.0, gt=0)
    norm: Literal["layer", "rms", "none"] = "layer"
    post_norm: bool = False
    final_norm: bool = False
    qk_norm: bool = False
    bias: bool = True
    rope: bool = True
    rope_layout: Literal["interleaved", "half"] = "interleaved"
    rope_length: float | None = Field(None, gt=0)
    sos: bool = True
    scale: Literal["exp", "softplus"] = "exp"
    soft_clip: float = Field(0.0, ge=0, le=1e3)
    order: Literal["R2L", "L2R"] = "R2L"
    classes: int | None = Field(None, gt=0)
    text_dim: int | None = Field(None, gt=0)
    text_tokens: int = Field(0, ge=0)
    condition_top_only: bool = False
    label_dropout: float = Field(0.1, ge=0, le=1)
    noise_std: float = Field(0.3, ge=0, le=100)
    regularization: float = Field(0.0, ge=0, le=1e3)
    denoise: bool = True
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> STARFlowConfig:
        if self.classes is not None and self.text_dim is not None:
            raise ValueError("classes and text_dim exclude each other: a model is conditioned on one of them")
        if self.text_dim is not None and self.rope and not self.text_tokens:
            raise ValueError("text_dim with rope needs text_tokens > 0")
        if min(self.layers) < 0:
            raise ValueError("layers must not be negative")
        for width in {self.width, self.top_width or self.width}:
            heads = self.heads or width // self.head_dim
            if heads < 1:
                raise ValueError(f"width {width} is narrower than head_dim {self.head_dim}")
            if heads % (self.kv_heads or heads):
                raise ValueError(f"{heads} heads are not a multiple of {self.kv_heads} key heads")
        rotations = self.head_dim // 2 - self.text_frequencies
        if self.rope and (self.head_dim % 2 or rotations % 2 or rotations < 0):
            raise ValueError(
                f"head_dim {self.head_dim} leaves {rotations} rotations for two axes; they must be even and not negative"
            )
        return self

    @property
    def conditional(self) -> bool:
        return self.classes is not None or self.text_dim is not None

    @property
    def text_frequencies(self) -> int:
        """Rotations kept for the text axis."""
        return TEXT_FREQUENCIES if self.text_tokens else 0
