"""What can be chosen about a network: sizes and options, its transport, and the defaults of sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from fae_core.config import Config
from fae_core.errors import FAEError, InvalidFile, InvalidSettings
from fae_core.models.stored import StoredModel, stored_model
from fae_core.spec import LatentSpec
from fae_diffusion.samplers.config import AUTOGUIDED, NAMED, SamplingName, sampling_with
from fae_diffusion.samplers.config import Sampling as Sampling
from fae_diffusion.transport import Transport


class MeanFlow(Config):
    """How a network learns mean velocities over intervals of time; see `mean_flow`.

    The defaults are MeanFlow's for ImageNet (Geng et al., 2025), without guidance.
    """

    share: float = Field(default=0.25, ge=0, le=1, description="of the samples with r < t; the others have r = t")
    guidance: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="scale built into the velocity that is learned, so that sampling needs no second pass; 1 is off",
    )
    weight_power: float = Field(
        default=1.0, ge=0, le=10, description="p of the weight 1 / (squared error + weight_floor)^p; 0 is plain MSE"
    )
    weight_floor: float = Field(default=1e-3, gt=0, le=1e6, description="added to the squared error of a sample")


class NetworkConfig(Config):
    """The sizes of a transformer on patches of latents, class-conditional or with text."""

    patch_size: int = Field(default=1, ge=1, description="side of a patch, in latent positions")
    width: int = Field(default=384, ge=4, description="of a token")
    depth: int = Field(default=12, ge=1, description="number of blocks")
    heads: int = Field(default=6, ge=1, description="of the attention; they divide the width")
    mlp_ratio: float = Field(default=4.0, gt=0, description="hidden width of the feed-forward layers over the width")

    named_sampling: ClassVar[dict[SamplingName, dict[str, Any]]] = NAMED

    @model_validator(mode="after")
    def _width_divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        if self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4, which the position table needs")
        return self

    def require_blocks(self, numbers: Sequence[int]) -> None:
        """Raise FAEError where the network has no blocks of these numbers, counted from 0."""
        absent = [number for number in numbers if not 0 <= number < self.block_count]
        if absent:
            blocks = f"this network has {self.block_count}, counted from 0"
            raise FAEError(f"there is no block {absent[0]} to skip: {blocks}")

    def sampling_settings(self, options: Mapping[str, Any], model: StoredModel | None = None) -> Sampling:
        """The settings of a call of `sample`: the model's own, those of a name over them, then single options.

        Args:
            options: Of `sample`, `sampling`, `weak` and `times` among them.
            model: The model's files; with them the files of a `weak` model in a folder are compared.

        Raises:
            FAEError: The model cannot sample so.
        """
        given: dict[str, Any] = {name: value for name, value in options.items() if name != "times"}
        name, weak = given.pop("sampling", None), given.pop("weak", None)
        if name in AUTOGUIDED and weak is None:
            raise FAEError(f"{name} guides by a worse model: give one with weak (fae sample --set weak=FOLDER)")
        below = sampling_with(cast(Any, self).sampling, self.named_sampling[name] if name else {})
        settings = sampling_with(below, given)
        if settings.method == "mean_flow" and getattr(self, "mean_flow", None) is None:
            raise FAEError("the method mean_flow needs a network trained with mean_flow; take another method")
        if settings.guidance.is_on and weak is None:
            self.require_null()
        if settings.guidance.skip is not None:
            self.require_blocks(settings.guidance.skip.blocks)
        if model is not None and isinstance(weak, str | Path):
            require_guides(stored_model("generator", weak), model)
        said = given.get("guidance")
        unsaid = said is None or (isinstance(said, Mapping) and not {"scale", "parts"} & said.keys())
        if weak is not None and unsaid and not settings.guidance.is_on:  # a study's scale 1 is said
            raise FAEError(
                "a weak model guides at a scale other than 1: give one with guidance (fae sample --guidance)"
            )
        return settings

    @property
    def block_count(self) -> int:
        """How many blocks the network has."""
        return self.depth

    def require_null(self) -> None:
        """Raise FAEError where the model knows no condition "none", as guidance needs it."""

    def require_spec(self, spec: LatentSpec) -> None:
        """Raise InvalidFile where patches do not tile the latents of a space.

        Args:
            spec: It.
        """
        patch = self.patch_size
        if spec.height % patch or spec.width % patch:
            raise InvalidFile(f"patches of {patch} do not tile latents of {spec.height}x{spec.width}")


def require_guides(weak: Any, model: Any) -> None:
    """Check that the velocities of a worse model are about the same states and conditions as those of a model.

    Args:
        weak: A generator, or its StoredModel; None, for what only loading tells, passes.
        model: What it is to guide; a generator, or its StoredModel.

    Raises:
        LatentSpecMismatch: They are of different latents.
        FAEError: One does not understand conditions as the other does, or they were trained on different paths.
    """
    if weak is None:
        return
    name = f"the weak model {getattr(weak, 'source', type(weak).__name__)}"
    if model.spec is not None and weak.spec is not None:
        model.spec.require(weak.spec, context=name)
    if weak.config is None or model.config is None:  # of a package that does not register it
        return
    if not isinstance(getattr(weak.config, "transport", None), Transport):
        raise FAEError(f"{name} cannot guide: it gives no velocities, as models of fae-diffusion do")
    own, other = _conventions(model), _conventions(weak)
    for what in own:
        if own[what] != other[what] and None not in (own[what], other[what]):
            values = f"{str(own[what])[:60]} of this model, {str(other[what])[:60]} of the other"
            raise FAEError(f"{name} cannot guide this model, as their {what} differ: {values}")


def _conventions(model: Any) -> dict[str, Any]:
    """What two models must have in common for one to guide the other, by name; None is not known."""
    config, names = model.config, getattr(model, "class_names", None)
    return {
        "paths": config.transport.path,
        "numbers of classes": getattr(config, "classes", 0),
        "class names or the order of these": None if names is None else tuple(names),
        "widths of text": getattr(config, "text_width", 0),
        "widths of pooled text": getattr(config, "pooled_width", 0) or 0,
        "text encoders": getattr(getattr(config, "text_encoder", None), "fingerprint", None),
    }


class HeadConfig(Config):
    """The wide, shallow head of DiT^DH. The defaults are those of all its published sizes."""

    width: int = Field(default=2048, ge=4, description="of a token in the head")
    depth: int = Field(default=2, ge=0, description="number of its blocks")
    heads: int = Field(default=16, ge=1, description="of its attention; they divide its width")

    @model_validator(mode="after")
    def _width_divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"the head's width {self.width} is not a multiple of {self.heads} heads")
        return self


class TransformerConfig(NetworkConfig):
    """A class-conditional diffusion transformer. The defaults are SiT's; `LightningDiTConfig` turns its options on."""

    takes_prompts: ClassVar[bool] = False
    follows_data: ClassVar[frozenset[str]] = frozenset({"classes"})

    classes: int = Field(default=1000, ge=1, description="labels are 0 .. classes - 1")
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
    time_embedding: Literal["sinusoids", "gaussian"] = Field(
        default="sinusoids", description="'gaussian': 256 random frequencies, fixed at the start, as in RAE"
    )
    position_table: bool = Field(default=True, description="fixed sines and cosines of the position, added to tokens")
    head: HeadConfig | None = Field(
        default=None, description="a wide, shallow head that the blocks condition token by token: DiT^DH of RAE"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations in the backward pass to save memory"
    )

    mean_flow: MeanFlow | None = Field(
        default=None, description="learn mean velocities, for the sampling method mean_flow in one to four steps"
    )
    transport: Transport = Field(default=Transport(), description="what is learned, and at which times")
    sampling: Sampling = Field(default=Sampling(), description="defaults of `sample`")

    @property
    def block_count(self) -> int:
        """How many blocks the network has, those of a wide head among them."""
        return self.depth + (0 if self.head is None else self.head.depth)

    @model_validator(mode="after")
    def _mean_flow_fits(self) -> Self:
        if self.mean_flow is None and self.sampling.method == "mean_flow":
            raise ValueError("the sampling method mean_flow needs a network trained with mean_flow")
        if self.mean_flow is not None:
            if self.transport.prediction != "velocity" or self.transport.cosine:
                raise ValueError("mean_flow needs the prediction velocity, and no cosine term")
            if self.mean_flow.guidance != 1 and not self.class_dropout:
                raise ValueError("the guidance of mean_flow needs class_dropout, which trains the null label")
        return self

    def require_one_guidance(self) -> None:
        """Raise InvalidSettings where `sample` would by default guide what was learned with guidance already."""
        if self.mean_flow is not None and self.mean_flow.guidance != 1 and self.sampling.guidance.is_on:
            raise InvalidSettings(
                f"model settings: mean_flow learns with guidance {self.mean_flow.guidance:g}, and sampling would guide "
                "once more: --set model.sampling.guidance=1"
            )

    @model_validator(mode="after")
    def _rotation_fits(self) -> Self:
        for sizes in (self, self.head):
            if self.rope and sizes is not None and (sizes.width // sizes.heads) % 4:
                raise ValueError(
                    f"rope on a grid needs heads of a width that is a multiple of 4, not {sizes.width // sizes.heads}"
                )
        return self

    def require_null(self) -> None:
        if self.class_dropout == 0:
            raise FAEError(
                "this model has no null label (class_dropout is 0): give it labels, and guidance 1 or a weak model"
            )

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the feed-forward layers."""
        return self.hidden_of(self.width)

    def hidden_of(self, width: int) -> int:
        """Hidden width of a feed-forward layer on tokens of a width; with SwiGLU two thirds of the ratio, so that the
        number of parameters stays about equal.

        Args:
            width: Of the tokens.
        """
        hidden = int(width * self.mlp_ratio)
        return int(2 / 3 * hidden) if self.swiglu else hidden

    @property
    def norm(self) -> Literal["rms", "layer"]:
        """The kind of norm before each branch."""
        return "rms" if self.rms_norm else "layer"


class SiTConfig(TransformerConfig):
    """SiT (Ma et al., 2024); with swiglu, rope and rms_norm the ladder of the paper's table 6."""


class LightningDiTConfig(TransformerConfig):
    """LightningDiT (Yao et al., 2025): SiT + SwiGLU + RoPE + RMSNorm."""

    swiglu: bool = Field(default=True, description="feed-forward layers are SwiGLU instead of an MLP with GELU")
    rope: bool = Field(default=True, description="rotary positions on the grid, in queries and keys")
    rms_norm: bool = Field(default=True, description="RMSNorm with a weight, instead of LayerNorm without one")
