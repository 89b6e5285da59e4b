"""Extractors by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fae_core.commands.loading import loading
from fae_core.errors import UnknownName

if TYPE_CHECKING:
    import torch

    from fae_eval.extractors.base import FeatureExtractor

DEFAULT = "efficientnet-lite2"


def known_extractors() -> list[str]:
    """Names that `load_extractor` takes."""
    return ["efficientnet-lite2", "resnet50-thin", "inception", "dinov2", "timm/<model>"]


def load_extractor(
    name: str | FeatureExtractor = DEFAULT,
    *,
    weights: str | Path | None = None,
    device: torch.device | str | None = None,
) -> FeatureExtractor:
    """The extractor of a name. An extractor object is returned as it is.

    - "efficientnet-lite2": offline, from pip; the default for development. Distances are FD-efficientnet-lite2.
    - "resnet50-thin": offline, from pip; a judge of another family than EfficientNet encoders, at 224 pixels.
    - "inception": ADM's network; only with its published weights are distances called FID.
    - "dinov2": timm's vit_large_patch14_dinov2.lvd142m at 224 pixels, for FD-DINOv2.
    - "timm/<model>": any timm model.

    "@128" after any name but inception sets the input size to 128x128. It is much faster, and part of the name: such
    distances are comparable only with each other.

    Args:
        name: one of these, or an extractor.
        weights: a local file in place of the default weights.
        device: where the network runs; the CPU by default.

    Raises:
        UnknownName: for any other name or size.
    """
    if not isinstance(name, str):
        return name
    with loading(f"extractor {name}"):
        return _load(name, weights, device)


def _load(name: str, weights: str | Path | None, device: torch.device | str | None) -> FeatureExtractor:
    plain, size = parse_name(name)
    if plain == "inception":
        from fae_eval.extractors.inception import InceptionExtractor

        return InceptionExtractor(weights, device)
    if plain == "resnet50-thin":
        from fae_eval.extractors.resnet_thin import ResNet50ThinExtractor

        return ResNet50ThinExtractor(weights, name=name, size=size, device=device)
    from fae_eval.extractors.timm_model import TimmExtractor, efficientnet_lite2

    if plain == "efficientnet-lite2":
        if weights is None:
            return efficientnet_lite2(device, size=size, name=name)
        return TimmExtractor("tf_efficientnet_lite2", weights, name=name, size=size, device=device)
    if plain == "dinov2":
        model = "vit_large_patch14_dinov2.lvd142m"
        label = name.replace("dinov2", "DINOv2", 1)
        return TimmExtractor(model, weights or "pretrained", name=label, size=size or (224, 224), device=device)
    model = plain.removeprefix("timm/")
    return TimmExtractor(model, weights or "pretrained", name=name.replace("/", "-", 1), size=size, device=device)


def parse_name(name: str) -> tuple[str, tuple[int, int] | None]:
    """The name without a size, and the size (height, width) in pixels; torch is not imported.

    Args:
        name: As of `load_extractor`.

    Raises:
        UnknownName: It is none that `load_extractor` takes.
    """
    plain, at, size = name.partition("@")
    if not plain.startswith("timm/") and (plain not in known_extractors() or (plain == "inception" and at)):
        raise UnknownName("extractor", name, known_extractors())
    if not at:
        return plain, None
    if not size.isdecimal() or len(size) > 4 or not 16 <= int(size) <= 4096:
        raise UnknownName("extractor size", size, ["128", "224", "260"])
    return plain, (int(size), int(size))
