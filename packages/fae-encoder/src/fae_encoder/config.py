"""What can be chosen about an encoder. torch is not imported, so that settings are checked at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from fae_core.config import Config, parse_config
from fae_core.errors import FAEError, InvalidFile
from fae_core.files import read_json
from fae_core.folders import ENCODER, MODEL_CONFIG
from fae_core.models.presets import load_preset
from fae_core.models.stored import stored_model, stored_spec
from fae_encoder.backbones.config import BackboneConfig

ENCODER_TYPE = "fae-encoder"
STORED = "stored"  # the backbone's weights are in the encoder's own folder
WHOLE_FAE = "fae"  # model_type of encoder and decoders together


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

    decodes: ClassVar[bool] = False  # read before the model is loaded

    backbone: BackboneConfig
    adapter: AdapterConfig = AdapterConfig()
    channels: int = Field(default=32, gt=0)
    image_size: int | tuple[int, int] = 256
    standardize_features: bool = False


def preset_config(name: str, overrides: Mapping[str, Any], weights: str | Path | None = "default") -> FAEEncoderConfig:
    """The configuration of an encoder preset.

    Args:
        name: of the preset.
        overrides: fields over it; `backbone` and `adapter` may be dicts that replace single fields.
        weights: of the backbone; "default" = the preset's choice, None or "random" = none.

    Raises:
        UnknownName: for an unknown preset.
        InvalidSettings: for a field that is unknown or out of range.
        FAEError: for a backbone that no library has, or weights that it cannot have.
    """
    fields = {**load_preset(name, ENCODER_TYPE).get("model", {})}
    for key, value in overrides.items():
        partial = key in ("backbone", "adapter") and isinstance(value, dict)
        fields[key] = {**fields.get(key, {}), **value} if partial else value
    config = parse_config(FAEEncoderConfig, fields, f"preset {name}")
    if weights != "default":
        chosen = {"weights": None if weights in (None, "random") else str(weights)}
        config = config.model_copy(update={"backbone": config.backbone.model_copy(update=chosen)})
    config.backbone.require()
    return config


def stored_config(source: str | Path, weights: str | None = None) -> FAEEncoderConfig | None:
    """The configuration of the encoder in a folder, an encoder's own or a whole FAE's, read without torch.

    Args:
        source: a model folder, run or bundle.
        weights: of the backbone, from elsewhere; None for those that the folder names.

    Returns:
        The configuration; None for a hub repository, of which only loading tells.

    Raises:
        InvalidFile: there is no encoder with a backbone, a file of it is damaged, or the folder has weights itself.
    """
    stored = stored_model("tokenizer", source)
    if stored is None:
        return None
    if stored.point.name not in (ENCODER_TYPE, WHOLE_FAE):
        raise InvalidFile(f"{source} holds a {stored.point.name}, which has no backbone; give an encoder or an FAE")
    folder = stored.folder if stored.point.name == ENCODER_TYPE else stored.folder / ENCODER
    path = folder / MODEL_CONFIG
    config = parse_config(FAEEncoderConfig, read_json(path).get("config", {}), str(path))
    if weights is not None:
        require_no_stored_weights(config, folder)
    return config


def require_no_stored_weights(config: FAEEncoderConfig, folder: Path) -> None:
    """Raise InvalidFile where a backbone's weights are in the encoder's own folder, so that no others can be taken.

    Args:
        config: of the encoder.
        folder: the encoder's.
    """
    if config.backbone.weights == STORED:
        raise InvalidFile(f"{folder} holds its backbone's weights itself; leave `weights` out")


def require_features_of(features: str | Path, config: FAEEncoderConfig) -> None:
    """Check that stored features can be those of an encoder's backbone, by their latent_spec.json alone.

    Networks are compared, not their whole names: one network's weights may have several names and places.

    Args:
        features: a latent store.
        config: the encoder's.

    Raises:
        FAEError: they are of another backbone.
    """
    spec = stored_spec(Path(features))
    if spec is not None and _network(spec.backbone) != _network(config.backbone.name):
        raise FAEError(f"{features} holds features of {spec.backbone}, and the encoder's are of {config.backbone.name}")


def _network(backbone: str) -> str:
    """The network that a backbone's name says; of transformers' only the library, as folders may move."""
    library, _, model = backbone.partition("/")
    return f"{library}/{model.partition('.')[0]}" if library == "timm" else library
