"""Perceptual terms: the distance of two images in the features of a pretrained network.

Each is a frozen module: forward(decoded, target), both (B, 3, H, W), the target in [0, 1] -> a scalar, the mean over
the batch, with gradients to `decoded`, which may leave [0, 1] as a decoder's output does. Images are resized only
where a network needs its own size. FAEError is raised for targets out of range and for different shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_core.images.check import require_image_batch

if TYPE_CHECKING:
    from fae_encoder import Backbone


class StageDistance(nn.Module):
    """Distance of unit-length features at every position, for each selected layer of a backbone.

    It is LPIPS without its calibration: the mean over positions and layers of |a / |a| - b / |b||^2, in [0, 4].

    Args:
        backbone: Its `feature_maps` give each layer on its own grid.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, decoded: Tensor, target: Tensor) -> Tensor:
        """A scalar."""
        require_pair(decoded, target)
        with torch.no_grad():
            wanted = self.backbone.feature_maps(target)
        pairs = zip(self.backbone.feature_maps(decoded, check=False), wanted, strict=True)
        return torch.stack([_unit_distance(a.tokens_BNC, b.tokens_BNC) for a, b in pairs]).mean()


class LogitDistance(nn.Module):
    """Mean squared difference of a classifier's logits; with ConvNeXt-S the second half of TA-TiTok's perceptual loss.

    Args:
        backbone: With a head.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, decoded: Tensor, target: Tensor) -> Tensor:
        """A scalar."""
        require_pair(decoded, target)
        with torch.no_grad():
            wanted = self.backbone.head(self.backbone(target)).float()
        return (self.backbone.head(self.backbone(decoded, check=False)).float() - wanted).square().mean()


class WeightedSum(nn.Module):
    """Several perceptual terms with their weights.

    Args:
        terms: (weight, term) each.
    """

    def __init__(self, terms: list[tuple[float, nn.Module]]) -> None:
        super().__init__()
        self.weights = [weight for weight, _ in terms]
        self.terms = nn.ModuleList(term for _, term in terms)

    def forward(self, decoded: Tensor, target: Tensor) -> Tensor:
        """A scalar."""
        return torch.stack([w * term(decoded, target) for w, term in zip(self.weights, self.terms, strict=True)]).sum()


def frozen_backbone(
    name: str,
    weights: str | None,
    image_size: int | tuple[int, int] | None,
    layers: tuple[int, ...] | None,
    grid: tuple[int, int] | None = None,
) -> Backbone:
    """A backbone for a loss; arguments as `create_backbone` takes them.

    Raises:
        FAEError: Its weights cannot be loaded; says what to do.
    """
    from fae_encoder import create_backbone

    try:
        return create_backbone(name, weights=weights, image_size=image_size, layers=layers, grid=grid)
    except FAEError as error:
        raise FAEError(f"the loss needs {name} with weights {weights!r}: {error}") from None


def require_pair(decoded: Tensor, target: Tensor) -> None:
    """Check that both are batches (B, 3, H, W) of one shape, since a comparison would broadcast.

    Raises:
        FAEError: They are not.
    """
    for images, what in ((decoded, "decoded images"), (target, "target images")):
        require_image_batch(images, what)
    if decoded.shape != target.shape:
        raise FAEError(f"decoded images {tuple(decoded.shape)} and their targets {tuple(target.shape)} differ in shape")


def _unit_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean over positions of the squared distance of unit-length tokens (B, N, D)."""
    a, b = (x.float() / x.float().norm(dim=-1, keepdim=True).clamp_min(1e-6) for x in (a, b))
    return (a - b).square().sum(-1).mean()
