"""What can be chosen about sampling, and the defaults."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from fae_core.config import Config, parse_config
from fae_diffusion.guidance import Guidance, SkippedBlocks
from fae_diffusion.transport import shift_from_lightningdit

Diffusion = Literal["sigma", "linear", "constant", "decreasing", "increasing-decreasing", "sbdm"]
LastStep = Literal["mean", "tweedie", "euler"]
SamplingName = Literal[
    "paper-guided",
    "paper-unguided",
    "fast",
    "sit",
    "sit-ode",
    "lightningdit",
    "lightningdit-64ep",
    "repa",
    "rae",
    "rae-autoguidance",
    "sd3",
    "sd3.5-medium",
]
_SDE = {
    "method": "sde",
    "steps": 250,
    "end": 0.0,
    "diffusion": "sigma",
    "diffusion_norm": 1.0,
    "last_step": "mean",
    "last_step_size": 0.04,
}
# RAE: 50 points of time from 1 to 0.001, shifted as in training.
_RAE = {"method": "euler", "steps": 49, "shift": None, "end": 1e-3}


def _sd3_shifted(t: float) -> float:
    """A time under SD3's shift of 3."""
    return 3 * t / (1 + 2 * t)


# SD3's times before the shift end at its smallest of 1000 noise levels, which is shifted already: 0.001 by 3.
_SD3_END = _sd3_shifted(0.001)
# The paper's are those of appendix D, for any model; the three parts of guidance are for class-conditional models. The
# others are those of the originals' code and configurations, in our convention; each goes with models of that original,
# with the tables' numbers of points as intervals, and guides the channels that its code guides; a Guidance replaces the
# model's own, of which fields would leave the others. They are taken from:
#   sit               willisma/SiT, sample_ddp.py SDE with the guidance of the paper's FID of 2.06; -ode: its dopri5
#   lightningdit      hustvl/LightningDiT, configs/reproductions: 800 epochs; -64ep: 64 epochs
#   repa              sihyun-yu/REPA, README's command of generate.py; an MMDiT has those of generate_t2i.py
#   rae               bytetriper/RAE, configs/stage2/sampling; -autoguidance: of 256 pixels (at 512 the scale is 1.5)
#   sd3               diffusers' StableDiffusion3Pipeline and its FlowMatchEulerDiscreteScheduler with SD3's shift
#   sd3.5-medium      the same pipeline with the model card's steps and scale, and its guidance by skipped blocks from
#                     1 % to 20 % of the steps
NAMED: dict[SamplingName, dict[str, Any]] = {
    "paper-guided": {
        "method": "euler",
        "steps": 250,
        "end": 0.0,
        "guidance": Guidance(parts=((1.0, 0.9, 0.9), (0.9, 0.7, 1.0), (0.7, 0.0, 2.5))),
    },
    "paper-unguided": {**_SDE, "guidance": Guidance(scale=1.0)},
    "fast": {"method": "dpm++2m", "steps": 25},
    "sit": {**_SDE, "shift": 1.0, "guidance": Guidance(scale=1.5, channels=3)},
    "sit-ode": {
        "method": "dopri5",
        "steps": 249,
        "shift": 1.0,
        "end": 0.0,
        "atol": 1e-6,
        "rtol": 1e-3,
        "past_end": True,
        "guidance": Guidance(scale=1.5, channels=3),
    },
    "lightningdit": {
        "method": "euler",
        "steps": 249,
        "shift": shift_from_lightningdit(0.3),
        "end": 0.0,
        "guidance": Guidance(scale=6.7, interval=(0.0, 0.875), channels=3),
    },
    "lightningdit-64ep": {
        "method": "euler",
        "steps": 249,
        "shift": shift_from_lightningdit(0.3),
        "end": 0.0,
        "guidance": Guidance(scale=10.0, interval=(0.0, 0.9), channels=3),
    },
    "repa": {**_SDE, "shift": 1.0, "guidance": Guidance(scale=1.8, interval=(0.0, 0.7))},
    "rae": {**_RAE, "guidance": Guidance(scale=1.0)},
    "rae-autoguidance": {**_RAE, "guidance": Guidance(scale=1.42)},
    "sd3": {
        "method": "euler",
        "steps": 28,
        "shift": 3.0,
        "end": _SD3_END,
        "to_zero": True,
        "guidance": Guidance(scale=7.0),
    },
    "sd3.5-medium": {
        "method": "euler",
        "steps": 40,
        "shift": 3.0,
        "end": _SD3_END,
        "to_zero": True,
        "guidance": Guidance(
            scale=4.5,
            skip=SkippedBlocks(blocks=(7, 8, 9), scale=2.8, interval=(_sd3_shifted(0.8), _sd3_shifted(0.99))),
        ),
    },
}
# Names whose guidance is by a worse model, which the call must give.
AUTOGUIDED: frozenset[str] = frozenset({"rae-autoguidance"})


class Sampling(Config):
    """How `sample` integrates from noise to data. Every field can be overridden in the call."""

    speed_only: ClassVar[frozenset[str]] = frozenset({"compile", "cuda_graph"})

    method: Literal[
        "euler",
        "midpoint",
        "heun",
        "rk4",
        "dpm++2m",
        "mean_flow",
        "dopri5",
        "dopri8",
        "bosh3",
        "adaptive_heun",
        "sde",
        "sde-heun",
    ] = Field(default="euler", description="'sde' is Euler-Maruyama; 'mean_flow' needs a network trained for it")
    steps: int = Field(default=50, ge=1, le=100_000, description="intervals of the time grid")
    shift: float | None = Field(default=None, ge=1e-3, le=1e3, description="of the grid; None: the shift of training")
    end: float = Field(
        default=0.0, ge=0, lt=1, description="where the grid ends, before its shift; RAE's code stops at 0.001"
    )
    to_zero: bool = Field(
        default=False, description="the last of the steps leads from `end` to 0, as in the code of SD3 and diffusers"
    )
    guidance: Guidance = Field(default=Guidance(), description="classifier-free, by interval or in parts")
    diffusion: Diffusion = Field(default="sigma", description="form of the SDE's diffusion coefficient")
    diffusion_norm: float = Field(default=1.0, ge=0, le=1e3, description="factor of the diffusion coefficient")
    last_step: LastStep | None = Field(default="mean", description="how an SDE takes its last interval")
    last_step_size: float = Field(
        default=0.04, ge=0, lt=1, description="length of that interval, which with to_zero begins at `end`"
    )
    atol: float = Field(default=1e-6, ge=1e-15, le=1e3, description="absolute tolerance of the adaptive methods")
    rtol: float = Field(default=1e-3, ge=1e-15, le=1e3, description="relative tolerance of the adaptive methods")
    past_end: bool = Field(
        default=False,
        description="the last step of an adaptive method passes the end, beyond which nothing is trained, and the "
        "state there is interpolated, as in SiT's code",
    )
    precision: Literal["fp32", "bf16", "auto"] = Field(
        default="auto",
        description="of the network; bf16 is autocast, fp32 on CPUs that have no bf16; the state is fp32; "
        "'auto': bf16 on a GPU, fp32 elsewhere",
    )
    compile: bool | Literal["auto"] = Field(
        default="auto",
        description="torch.compile the blocks, which takes minutes; 'auto': on a GPU, once the network was evaluated "
        "often enough to repay it, but not for batches that are replayed as CUDA graphs",
    )
    cuda_graph: bool | Literal["auto"] = Field(
        default="auto",
        description="replay the network's evaluations as CUDA graphs; 'auto': on a GPU, for batches so small that "
        "launches take longer than the work, and networks without adapters and hooks",
    )

    @property
    def stochastic(self) -> bool:
        """Whether the method integrates the SDE."""
        return self.method.startswith("sde")


class SampleOptions(Sampling):
    """What `FlowMatching.sample` takes: the settings, and what stands in its signature beside them."""

    times: Any = None
    weak: Any = None
    sampling: SamplingName | None = None


def sampling_with(defaults: Sampling, options: dict[str, Any]) -> Sampling:
    """`defaults` with some fields replaced; None is a value like any other.

    Guidance is changed by what is given of it, see `Guidance.changed`: one field of it leaves the others.

    Raises:
        InvalidSettings: for an unknown option or a wrong value, in one line.
    """
    fields = {name: getattr(defaults, name) for name in Sampling.model_fields}
    guidance = {"guidance": defaults.guidance.changed(options["guidance"])} if "guidance" in options else {}
    return parse_config(Sampling, {**fields, **options, **guidance}, "sampling options")
