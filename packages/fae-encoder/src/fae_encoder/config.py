"""What can be chosen about an encoder. torch is not imported, so that settings are checked at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from fae_core.config import Config, parse_config
from fae_core.models.presets import load_preset
from fae_encoder.backbones.config import BackboneConfig


class AdapterConfig(Config):
    """Which adapter, and the choices that the paper leaves open.

    The activation is GELU by default: figure 7 shows one without a name, and the backbones use GELU between two
    projections. There is no input norm by default: the paper's backbones end in a LayerNorm, other features are
    standardised by FeatureNorm, and the paper's parameter count leaves no room for an affine norm. Rotary positions are
    off by default for attention, because ViT features carry positions; the transformer always has them, like the
    feature decoder's layers.

    Attributes:
        type: "attention" (the paper's), "linear", "transformer" or "identity".
        hidden: width of the attention's values and skip (default 4 * D: 6144 for the paper's 1536), or of the
            transformer's MLP (default: SwiGLU's 2/3 * 4 * D).
        heads: default heads of 256 for attention (24 in the paper) and of 64 for the transformer, or of the next power
            of two below that divides the width.
        activation: between attention and output projection.
        input_norm: norm before the first projection.
        rope: rotate queries and keys by their position on the grid.
        depth: layers of the transformer (4 and 6 in table 5).
        latent_norm: "rms" divides each position's latent by its root mean square over the channels, without a learned
            scale, and gives it no variance: GAE's latents (Liu et al., 2026), trained without a KL term.
    """

    type: Literal["attention", "linear", "transformer", "identity"] = "attention"
    hidden: int | None = Field(default=None, gt=0)
    heads: int | None = Field(default=None, gt=0)
    activation: Literal["gelu", "silu", "relu", "none"] = "gelu"
    input_norm: Literal["none", "layer", "rms"] = "none"
    rope: bool = False
    depth: int = Field(default=4, gt=0)
    latent_norm: Literal["none", "rms"] = "none"

    @property
    def unseen_in_weights(self) -> str:
        """Choices other than the defaults that no weight's name or shape shows; "" for none."""
        fields = {"attention": ("heads", "activation", "rope"), "transformer": ("heads",)}.get(self.type, ())
        defaults = type(self)()
        chosen = {name: getattr(self, name) for name in (*fields, "input_norm", "latent_norm")}
        return " ".join(f"{name}={value}" for name, value in chosen.items() if value != getattr(defaults, name))


class FAEEncoderConfig(Config):
    """An encoder's backbone, adapter and latent space.

    image_size and backbone.image_size are separate: the paper encodes 256-pixel images through a 224-pixel backbone.

    Attributes:
        backbone: the frozen network.
        adapter: the trained part.
        channels: C of the latent.
        image_size: pixels of the images that latents stand for, a number or (height, width).
        standardize_features: training measures the features' per-channel mean and std first.
    """

    backbone: BackboneConfig
    adapter: AdapterConfig = AdapterConfig()
    channels: int = Field(default=32, gt=0)
    image_size: int | tuple[int, int] = 256
    standardize_features: bool = False


def preset_config(name: str, overrides: Mapping[str, Any]) -> FAEEncoderConfig:
    """The configuration of an encoder preset.

    Args:
        name: of the preset.
        overrides: fields over it; `backbone` and `adapter` may be dicts that replace single fields.

    Raises:
        UnknownName: for an unknown preset.
        InvalidSettings: for a field that is unknown or out of range.
    """
    fields = {**load_preset(name, "fae-encoder").get("model", {})}
    for key, value in overrides.items():
        partial = key in ("backbone", "adapter") and isinstance(value, dict)
        fields[key] = {**fields.get(key, {}), **value} if partial else value
    return parse_config(FAEEncoderConfig, fields, f"preset {name}")
