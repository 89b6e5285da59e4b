"""Perceptual terms: how far apart two images are for a network that knows images.

Every one is a frozen module: forward(painted, target), both (B, 3, H, W), the target in [0, 1] -> a scalar, mean over the
batch, with gradients to `painted`, which may leave [0, 1] as a decoder's output does. Images are resized only where a network
insists on its own size. Raises FAEError for targets out of range and for two shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_core.images.check import require_image_batch


class StageDistance(nn.Module):
    """Distance of unit-length features at every position, for each selected layer of a backbone (LPIPS without its
    calibration): the mean over positions and layers of |a / |a| - b / |b||^2. In [0, 4].

    backbone: fae_encoder's; its `feature_maps` give each layer on its own grid.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, painted: Tensor, target: Tensor) -> Tensor:
        require_pair(painted, target)
        with torch.no_grad():
            wanted = self.backbone.feature_maps(target)
        pairs = zip(self.backbone.feature_maps(painted, check=False), wanted, strict=True)
        return torch.stack([_unit_distance(a.tokens_BNC, b.tokens_BNC) for a, b in pairs]).mean()


class LogitDistance(nn.Module):
    """Mean squared difference of a classifier's logits; with ConvNeXt-S the second half of TA-TiTok's perceptual loss."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, painted: Tensor, target: Tensor) -> Tensor:
        require_pair(painted, target)
        with torch.no_grad():
            wanted = self.backbone.head(self.backbone(target)).float()
        return (self.backbone.head(self.backbone(painted, check=False)).float() - wanted).square().mean()


class WeightedSum(nn.Module):
    """Several perceptual terms with their weights."""

    def __init__(self, terms: list[tuple[float, nn.Module]]) -> None:
        super().__init__()
        self.weights = [weight for weight, _ in terms]
        self.terms = nn.ModuleList(term for _, term in terms)

    def forward(self, painted: Tensor, target: Tensor) -> Tensor:
        return sum(w * term(painted, target) for w, term in zip(self.weights, self.terms, strict=True))


def frozen_backbone(
    name: str,
    weights: str | None,
    image_size: int | tuple[int, int] | None,
    layers: tuple[int, ...] | None,
    grid: tuple[int, int] | None = None,
):
    """A backbone for a loss. Raises FAEError saying what to do where its weights cannot be had."""
    from fae_encoder import create_backbone

    try:
        return create_backbone(name, weights=weights, image_size=image_size, layers=layers, grid=grid)
    except FAEError as error:
        raise FAEError(f"the loss needs {name} with weights {weights!r}: {error}") from None


def require_pair(painted: Tensor, target: Tensor) -> None:
    """Raise FAEError unless both are batches (B, 3, H, W) of one shape; what is compared broadcasts otherwise."""
    for images, what in ((painted, "painted images"), (target, "target images")):
        require_image_batch(images, what)
    if painted.shape != target.shape:
        raise FAEError(f"painted images {tuple(painted.shape)} and their targets {tuple(target.shape)} differ in shape")


def _unit_distance(a: Tensor, b: Tensor) -> Tensor:
    a, b = (x.float() / x.float().norm(dim=-1, keepdim=True).clamp_min(1e-6) for x in (a, b))
    return (a - b).square().sum(-1).mean()
