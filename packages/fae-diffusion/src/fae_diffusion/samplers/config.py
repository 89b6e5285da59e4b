"""What can be chosen about sampling, and the defaults."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from fae_core.config import Config, parse_config
from fae_diffusion.guidance import Guidance
from fae_diffusion.samplers.sde import Diffusion, LastStep

SamplingName = Literal["paper-guided", "paper-unguided", "fast"]
# Appendix D, for any model. The three parts of guidance are the paper's for class-conditional models.
NAMED: dict[SamplingName, dict[str, Any]] = {
    "paper-guided": {
        "method": "euler",
        "steps": 250,
        "guidance": {"parts": [[1.0, 0.9, 0.9], [0.9, 0.7, 1.0], [0.7, 0.0, 2.5]]},
    },
    "paper-unguided": {
        "method": "sde",
        "steps": 250,
        "diffusion": "sigma",
        "diffusion_norm": 1.0,
        "last_step": "mean",
        "last_step_size": 0.04,
        "guidance": {"scale": 1.0},
    },
    "fast": {"method": "dpm++2m", "steps": 25},
}


class Sampling(Config):
    """How `sample` integrates from noise to data. Every field can be overridden in the call."""

    method: Literal[
        "euler", "midpoint", "heun", "rk4", "dpm++2m", "dopri5", "dopri8", "bosh3", "adaptive_heun", "sde", "sde-heun"
    ] = Field(default="euler", description="'sde' is Euler-Maruyama")
    steps: int = Field(default=50, ge=1, le=100_000, description="intervals of the time grid")
    shift: float | None = Field(default=None, ge=1e-3, le=1e3, description="of the grid; None: the shift of training")
    guidance: Guidance = Guidance()
    diffusion: Diffusion = Field(default="sigma", description="form of the SDE's diffusion coefficient")
    diffusion_norm: float = Field(default=1.0, ge=0, le=1e3, description="factor of the diffusion coefficient")
    last_step: LastStep | None = Field(default="mean", description="how an SDE takes its last interval")
    last_step_size: float = Field(default=0.04, ge=0, lt=1, description="length of that interval")
    atol: float = Field(default=1e-6, ge=1e-15, le=1e3, description="absolute tolerance of the adaptive methods")
    rtol: float = Field(default=1e-3, ge=1e-15, le=1e3, description="relative tolerance of the adaptive methods")
    precision: Literal["fp32", "bf16", "auto"] = Field(
        default="fp32",
        description="of the network; bf16 is autocast, the state is integrated in fp32; "
        "'auto': bf16 on a GPU, fp32 elsewhere",
    )
    compile: bool = Field(
        default=False, description="torch.compile the blocks; the first call takes minutes, later ones less"
    )

    @property
    def stochastic(self) -> bool:
        """Whether the method integrates the SDE."""
        return self.method.startswith("sde")


def sampling_with(defaults: Sampling, options: dict[str, Any]) -> Sampling:
    """`defaults` with some fields replaced; None is a value like any other.

    Raises:
        InvalidSettings: for an unknown option or a wrong value, in one line.
    """
    fields = {name: getattr(defaults, name) for name in Sampling.model_fields}
    return parse_config(Sampling, {**fields, **options}, "sampling options")
