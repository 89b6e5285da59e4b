"""The frozen encoder of a RAE: from the weights in its checkpoint, or a transformers model by name.

RAE takes the patches' features after the last LayerNorm without its scale and shift, of images that are resized by a
bicubic filter without antialiasing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from fae_core.errors import InvalidFile
from fae_core.models.build import seeded
from fae_core.models.transformers_models import read_config, renamed_weights
from fae_encoder import FAEEncoder, FAEEncoderConfig
from fae_encoder.backbones import BackboneConfig
from fae_encoder.config import STORED, AdapterConfig

Colours = tuple[float, float, float]
IMAGENET: tuple[Colours, Colours] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[Colours, Colours] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_PATCHES = re.compile(r"((?:.*\.)?encoder\..*?)embeddings\.patch_embedding(?:s\.projection)?\.weight")
_HEAD = 64  # channels of an attention head, of every encoder that RAE and diffusers have
_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
_HIDDEN = re.compile(r"(?:^|\.)layers?\.0\.(?:mlp\.fc1|intermediate\.dense)\.weight$")
_NORMS = ("layernorm.weight", "layernorm.bias", "post_layernorm.weight", "post_layernorm.bias")


class StoredEncoder:
    """The encoder within a RAE's weights.

    Args:
        state: Of a whole RAE, in RAE's own layout or diffusers'.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        start = next((found[1] for found in map(_PATCHES.fullmatch, state) if found), None)
        inside = {} if start is None else {name: v for name, v in state.items() if name.startswith(start)}
        self.weights = {name.removeprefix(start or ""): value for name, value in inside.items()}

    def __bool__(self) -> bool:
        return bool(self.weights)

    @property
    def patch(self) -> int:
        """Pixels a side of a patch."""
        return self._projection.shape[-1]

    @property
    def colours(self) -> tuple[Colours, Colours]:
        """Mean and std of the images that networks of this kind expect."""
        return HALF if self._kind == "siglip_vision_model" else IMAGENET

    def config(self) -> dict[str, Any]:
        """The transformers config that the weights show, with heads of 64 channels.

        Raises:
            InvalidFile: They are of another kind than RAE's encoders.
        """
        width, kind = self._projection.shape[0], self._kind
        hidden = next((v.shape[0] for n, v in self.weights.items() if _HIDDEN.search(n)), None)
        positions = next((v for n, v in self.weights.items() if ".position_embedding" in f".{n}"), None)
        if width % _HEAD or hidden is None or positions is None:
            raise InvalidFile(
                f"the checkpoint's encoder (width {width}) is none that RAE is known to have; name it with --encoder"
            )
        side = isqrt(positions.shape[-2] - (kind != "siglip_vision_model"))
        fields: dict[str, Any] = {
            "model_type": kind,
            "hidden_size": width,
            "num_attention_heads": width // _HEAD,
            "num_hidden_layers": 1 + max(int(f[1]) for f in map(_LAYER.search, self.weights) if f),
            "patch_size": self.patch,
            "image_size": side * self.patch,
        }
        if kind == "dinov2_with_registers":
            registers = self.weights["embeddings.register_tokens"].shape[1]
            return {**fields, "mlp_ratio": hidden // width, "num_register_tokens": registers}
        if kind == "vit_mae":
            return {**fields, "intermediate_size": hidden, "mask_ratio": 0.0}
        has_head = any(name.startswith("head.") for name in self.weights)
        return {**fields, "intermediate_size": hidden, "vision_use_head": has_head}

    @property
    def _projection(self) -> Tensor:
        return next(v for n, v in self.weights.items() if n.startswith("embeddings.patch_embedding") and v.ndim == 4)

    @property
    def _kind(self) -> str:
        """transformers' model_type, of the three that RAE has."""
        if "embeddings.register_tokens" in self.weights:
            return "dinov2_with_registers"
        return "vit_mae" if "embeddings.cls_token" in self.weights else "siglip_vision_model"


def patch_of(name: str) -> int:
    """Pixels a side of the patches of a transformers model, by its config.

    Raises:
        InvalidFile: There is no such model, or it has no square patches.
    """
    config = read_config(name)
    patch = getattr(getattr(config, "vision_config", config), "patch_size", None)
    if not isinstance(patch, int):
        raise InvalidFile(f"{name} has no square patches, as RAE's encoders have")
    return patch


def build_encoder(
    stored: StoredEncoder,
    name: str | None,
    *,
    channels: int,
    input_size: int,
    image_size: int,
    colours: tuple[Colours, Colours] | None,
) -> FAEEncoder:
    """RAE's encoder as one with an identity adapter, whose latents are the features.

    Args:
        stored: The encoder's weights; may be empty, then `name` is loaded with its own.
        name: A folder or hub repository of transformers; None: what `stored` shows.
        channels: Of its features.
        input_size: Pixels a side that the network sees.
        image_size: Pixels a side of the images that latents stand for.
        colours: Mean and std of the images that the network expects; None: those of its image processor.

    Raises:
        FAEError: It cannot be built, or the weights are not its own.
    """
    backbone = BackboneConfig(
        name=f"hf/{name or stored.config()['model_type']}",
        weights=STORED if stored else "pretrained",
        image_size=input_size,
        norm_affine=False,
        mean=colours and colours[0],
        std=colours and colours[1],
        interpolation="bicubic-plain",
        hf_config=None if name else stored.config(),
    )
    config = FAEEncoderConfig(
        backbone=backbone, adapter=AdapterConfig(type="identity"), channels=channels, image_size=image_size
    )
    encoder = seeded(0, lambda: FAEEncoder(config))
    if stored:
        model: Any = encoder.backbone.network.get_submodule("model")
        weights = renamed_weights(model, stored.weights, "the checkpoint's encoder", optional=_NORMS)
        norms = {name: value for name, value in model.state_dict().items() if name in _NORMS}
        with torch.no_grad():  # the last norm keeps the scale 1 and shift 0 that `norm_affine` set
            model.load_state_dict({**weights, **norms})
    return encoder.eval()
