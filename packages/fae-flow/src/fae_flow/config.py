"""STARFlowConfig: every choice of a STARFlow but the shape of its latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from fae_core.config import Config, parse_config
from fae_core.errors import FAEError
from fae_core.spec import LatentSpec

# Rotations that the original reserves for the text axis if a model can see text.
TEXT_FREQUENCIES = 8


class STARFlowConfig(Config):
    """The configuration of a STARFlow; the latents' shape comes from the LatentSpec.

    Attributes:
        width: C of every block but, where top_width is set, the top one.
        layers: transformer layers of each block, the deep top block last; a block of 0 layers is the identity.
        top_width: width of the top block; None = width.
        head_dim: dimension of a head.
        heads: query heads; None = width / head_dim.
        kv_heads: key heads; None = heads.
        patch_size: side of the square of latent positions that forms a token.
        mlp: "gelu" (exact), "geglu" (tanh GELU times a gate; the original names it SwiGLU) or "swiglu" (SiLU gate).
        mlp_ratio: hidden width of the MLP over the width.
        norm: pre-norm; "rms" multiplies by 1 + weight.
        post_norm: an RMS norm (times 1 + weight) after each branch.
        final_norm: the same after the last layer.
        qk_norm: the same on queries and keys.
        bias: biases in the linear layers of attention and MLP.
        rope: axial rotary positions; else a learned table per block.
        rope_layout: which entries form a rotated pair.
        rope_length: side to which positions are scaled; None = that of the grid.
        sos: a learned first input, so that the first token is transformed too; else a block keeps it.
        scale: sigma = exp(a) or softplus(a + 0.5413), both 1 at a = 0.
        soft_clip: c of c * tanh(. / c) on a and the mean; 0 = off.
        order: direction of the blocks, which alternates; the first is in raster order for "R2L", reversed for "L2R".
        classes: number of classes of a class-conditional model; label `classes` is the null label.
        text_dim: width of the embeddings of a text-conditional model.
        text_tokens: usual number of embeddings; above 0 it reserves rotations for the text axis.
        condition_top_only: only the top block sees the condition.
        label_dropout: share of samples that are trained without the condition.
        noise_std: standard deviation of the noise added to latents in training, in units of normalised latents.
        regularization: weight of the mean squared input of each block.
        denoise: whether `sample` ends with a Tweedie step by default.
        gradient_checkpointing: recompute layers in the backward pass, to save memory.
    """

    takes_prompts: ClassVar[bool] = False
    follows_data: ClassVar[frozenset[str]] = frozenset({"classes"})

    width: int = Field(default=256, gt=0)
    layers: tuple[int, ...] = Field(default=(2, 2, 6), min_length=1, max_length=64)
    top_width: int | None = Field(default=None, gt=0)
    head_dim: int = Field(default=64, gt=0)
    heads: int | None = Field(default=None, gt=0)
    kv_heads: int | None = Field(default=None, gt=0)
    patch_size: int = Field(default=1, gt=0)
    mlp: Literal["gelu", "geglu", "swiglu"] = "gelu"
    mlp_ratio: float = Field(default=4.0, gt=0)
    norm: Literal["layer", "rms", "none"] = "layer"
    post_norm: bool = False
    final_norm: bool = False
    qk_norm: bool = False
    bias: bool = True
    rope: bool = True
    rope_layout: Literal["interleaved", "half"] = "interleaved"
    rope_length: float | None = Field(default=None, gt=0)
    sos: bool = True
    scale: Literal["exp", "softplus"] = "exp"
    soft_clip: float = Field(default=0.0, ge=0, le=1e3)
    order: Literal["R2L", "L2R"] = "R2L"
    classes: int | None = Field(default=None, gt=0)
    text_dim: int | None = Field(default=None, gt=0)
    text_tokens: int = Field(default=0, ge=0)
    condition_top_only: bool = False
    label_dropout: float = Field(default=0.1, ge=0, le=1)
    noise_std: float = Field(default=0.3, ge=0, le=100)
    regularization: float = Field(default=0.0, ge=0, le=1e3)
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
                f"head_dim {self.head_dim} leaves {rotations} rotations for two axes; they must be even and not "
                "negative"
            )
        return self

    @property
    def conditional(self) -> bool:
        """Whether the model has a condition, of classes or text."""
        return self.classes is not None or self.text_dim is not None

    def sampling_settings(self, options: Mapping[str, Any], model: Any = None) -> FlowSampling:
        """The settings of a call of `sample`.

        Args:
            options: Of `sample`.
            model: The model, which decides nothing here.

        Raises:
            FAEError: The model cannot be guided.
        """
        given = {name: value for name, value in options.items() if name in FlowSampling.model_fields}
        if given.get("denoise") is None:
            given["denoise"] = self.denoise
        settings = parse_config(FlowSampling, given, "sampling options")
        if settings.guidance != 1 and self.conditional and options.get("uncond") is None:
            self.require_null()
        return settings

    def require_null(self) -> None:
        """Raise FAEError where the model was trained without a null condition."""
        if not self.label_dropout:
            raise FAEError(
                "this model has no null condition (label_dropout is 0): give conditions, and uncond for guidance"
            )

    def require_spec(self, spec: LatentSpec) -> None:
        """Raise FAEError where patches do not tile the latents of a space.

        Args:
            spec: It.
        """
        patch = self.patch_size
        if spec.height % patch or spec.width % patch:
            raise FAEError(f"latents of {spec.height}x{spec.width} cannot be cut into patches of {patch}")

    @property
    def text_frequencies(self) -> int:
        """Rotations reserved for the text axis."""
        return TEXT_FREQUENCIES if self.text_tokens else 0


class FlowSampling(Config):
    """Settings of `STARFlow.sample`; see there."""

    speed_only: ClassVar[frozenset[str]] = frozenset({"cuda_graph"})

    guidance: float = Field(default=1.0, ge=0, le=1e6)
    denoise: bool | None = None
    guide_top_only: bool = False
    cuda_graph: bool | Literal["auto"] = "auto"
    precision: Literal["fp32", "bf16", "auto"] = "auto"


class SampleOptions(FlowSampling):
    """What `STARFlow.sample` takes beside conditions and noise: the settings, and what is no plain value."""

    uncond: Any = None
    jacobi: Any = None
