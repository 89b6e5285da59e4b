"""What can be chosen about a model: its architecture, its transport, and how it samples unless told otherwise."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fae_core.config import Config, parse_config
from fae_diffusion.guidance import Guidance
from fae_diffusion.samplers.sde import Diffusion, LastStep
from fae_diffusion.transport import Transport


class Sampling(Config):
    """How `sample` walks from noise to data. Every field can be overridden in the call."""

    method: Literal[
        "euler", "midpoint", "heun", "rk4", "dpm++2m", "dopri5", "dopri8", "bosh3", "adaptive_heun", "sde", "sde-heun"
    ] = Field("euler", description="'sde' is Euler-Maruyama")
    steps: int = Field(50, ge=1, le=100_000, description="intervals of the time grid")
    shift: float | None = Field(None, ge=1e-3, le=1e3, description="of the grid; None: the shift of training")
    guidance: Guidance = Guidance()
    diffusion: Diffusion = "sigma"
    diffusion_norm: float = Field(1.0, ge=0, le=1e3)
    last_step: LastStep | None = "mean"
    last_step_size: float = Field(0.04, ge=0, lt=1)
    atol: float = Field(1e-6, ge=1e-15, le=1e3)
    rtol: float = Field(1e-3, ge=1e-15, le=1e3)
    precision: Literal["fp32", "bf16", "auto"] = Field(
        "fp32",
        description="of the network; bf16 is autocast, the state is integrated in fp32; 'auto': bf16 on a GPU, fp32 elsewhere",
    )
    compile: bool = Field(False, description="torch.compile the blocks; the first call takes minutes, later ones less")

    @property
    def stochastic(self) -> bool:
        return self.method.startswith("sde")


class TransformerConfig(Config):
    """A class-conditional diffusion transformer. The defaults are SiT's; `LightningDiTConfig` turns its options on."""

    patch_size: int = Field(1, ge=1)
    width: int = Field(384, ge=4)
    depth: int = Field(12, ge=1)
    heads: int = Field(6, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)
    classes: int = Field(1000, ge=1)
    class_dropout: float = Field(0.1, ge=0, lt=1, description="0 leaves no null label: no classifier-free guidance")

    swiglu: bool = False
    rope: bool = False
    rms_norm: bool = False
    qk_norm: bool = Field(False, description="RMS with rms_norm, else LayerNorm")
    wo_shift: bool = Field(False, description="blocks modulated by scale and gate alone")
    learn_sigma: bool = Field(
        False, description="twice the output channels, the second half unused (older checkpoints)"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass to save memory")

    transport: Transport = Transport()
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        if self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4, which the position table needs")
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
        return "rms" if self.rms_norm else "layer"


class SiTConfig(TransformerConfig):
    """SiT (Ma et al., 2024); with swiglu, rope and rms_norm the ladder of the paper's table 6."""


class LightningDiTConfig(TransformerConfig):
    """LightningDiT (Yao et al., 2025): SiT + SwiGLU + RoPE + RMSNorm."""

    swiglu: bool = True
    rope: bool = True
    rms_norm: bool = True


def sampling_with(defaults: Sampling, options: dict[str, Any]) -> Sampling:
    """`defaults` with the options, of which None is a value like any other. Raises InvalidFile, one line, for a bad one."""
    fields = {name: getattr(defaults, name) for name in Sampling.model_fields}
    return parse_config(Sampling, {**fields, **options}, "sampling options")
