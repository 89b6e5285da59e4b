"""Latents that resemble a frozen backbone's features, in VA-VAE's way (Yao, Yang and Wang, CVPR 2025, section 3.2).

    z' = W z                                                                     equation 1: one linear map per position
    L_mcos = mean over positions of relu(1 - m1 - cos(z'_i, f_i))                equation 2
    L_mdms = mean over pairs of relu(|cos(z'_i, z'_j) - cos(f_i, f_j)| - m2)     equation 3
    L_vf   = w_hyper * w_adaptive * (L_mcos + L_mdms)                            equations 4 and 5
    w_adaptive = |gradient of the reconstruction terms| / |gradient of the alignment|, at the encoder's last convolution

Equation 3 is written with z; the released code compares the mapped z' in both terms, and so does this.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fae_decoders.losses.adversarial import adaptive_weight
from fae_decoders.losses.config import AlignmentConfig
from fae_decoders.losses.perceptual import frozen_backbone


class Alignment:
    """The alignment term. `projection` (W) belongs to the task's modules; the backbone is frozen and does not.

    Args:
        config: The term's settings.
        channels: C of the latents.
        grid: (h, w) of the latents.

    Raises:
        FAEError: The backbone's weights cannot be loaded.
    """

    def __init__(self, config: AlignmentConfig, channels: int, grid: tuple[int, int]) -> None:
        self.config = config
        self.backbone = frozen_backbone(config.backbone, config.weights, config.image_size, config.layers, grid)
        self.projection = nn.Conv2d(channels, self.backbone.dim, 1, bias=False)

    def to(self, device: str | torch.device) -> None:
        """Move the frozen backbone."""
        self.backbone.to(device)

    def terms(self, z: Tensor, images: Tensor, reconstruction: Tensor, last_layer: Tensor) -> dict[str, Tensor]:
        """The weighted alignment loss and its parts.

        Args:
            z: (B, C, h, w), raw latents with their graph.
            images: (B, 3, H, W) in [0, 1].
            reconstruction: The scalar that the adaptive weight compares with.
            last_layer: The encoder's last weight.

        Returns:
            "loss", "alignment_cosine", "alignment_distance" and, if adaptive, "alignment_weight".
        """
        with torch.no_grad():
            features = self.backbone(images)
        mapped = self.projection(z).flatten(2).transpose(1, 2)
        cosine = marginal_cosine(mapped, features, self.config.cosine_margin)
        distance = marginal_distance(mapped, features, self.config.distance_margin)
        terms = {"alignment_cosine": cosine, "alignment_distance": distance}
        loss = self.config.weight * (cosine + distance)
        if self.config.adaptive:
            terms["alignment_weight"] = adaptive_weight(reconstruction, cosine + distance, last_layer)
            loss = loss * terms["alignment_weight"]
        return {"loss": loss, **terms}


def marginal_cosine(mapped: Tensor, features: Tensor, margin: float) -> Tensor:
    """Equation 2 for tokens (B, N, D): positions that are similar enough already are left alone."""
    return F.relu(1 - margin - F.cosine_similarity(mapped.float(), features.float(), dim=-1)).mean()


def marginal_distance(mapped: Tensor, features: Tensor, margin: float) -> Tensor:
    """Equation 3 for tokens (B, N, D): how positions of one image relate to each other."""
    z, f = F.normalize(mapped.float(), dim=-1), F.normalize(features.float(), dim=-1)
    return F.relu((z @ z.transpose(1, 2) - f @ f.transpose(1, 2)).abs() - margin).mean()
