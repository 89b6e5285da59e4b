"""The adversarial terms: hinge losses, LeCam's regulariser, and the weight that balances them with the reconstruction."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fae_core.errors import FAEError

Adaptive = Literal["none", "last_layer", "per_image"]
_MAX_WEIGHT = 1e4


def decoder_hinge(fake: Tensor) -> Tensor:
    """-mean(logits of painted images): what the decoder minimises."""
    return -fake.float().mean()


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """mean(relu(1 - real)) / 2 + mean(relu(1 + fake)) / 2: what the discriminator minimises."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def lecam(real: Tensor, fake: Tensor, anchor_real: Tensor, anchor_fake: Tensor) -> Tensor:
    """LeCam's regulariser (Tseng et al., 2021): real logits should not run away from the painted ones' mean, nor the reverse."""
    above = F.relu(real.float() - anchor_fake).square().mean()
    below = F.relu(anchor_real - fake.float()).square().mean()
    return above + below


def adaptive_weight(base: Tensor, adversarial: Tensor, last_layer: nn.Parameter) -> Tensor:
    """|d base / d W| / |d adversarial / d W| at the decoder's last weight W (VQGAN; RAE). A scalar without gradient.

    Depends on the whole micro-batch. Raises FAEError where the weight is sharded and torch cannot give its gradient.
    """
    if hasattr(last_layer, "full_tensor"):
        raise FAEError("adaptive: last_layer needs whole weights; with parallel: fsdp take adaptive: per_image or none")
    (of_base,) = torch.autograd.grad(base, last_layer, retain_graph=True)
    (of_adversarial,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (of_base.norm() / (of_adversarial.norm() + 1e-6)).clamp(0, _MAX_WEIGHT).detach()


def adaptive_weight_per_image(base: Tensor, adversarial: Tensor, images: Tensor) -> Tensor:
    """The same ratio taken at the painted images, one for each, (B,): no image's weight depends on its neighbours.

    Ours, not VQGAN's. It stays the same under gradient accumulation and sharding. images: (B, 3, H, W), of the graph.
    """
    (of_base,) = torch.autograd.grad(base, images, retain_graph=True)
    (of_adversarial,) = torch.autograd.grad(adversarial, images, retain_graph=True)
    norms = [gradient.float().flatten(1).norm(dim=1) for gradient in (of_base, of_adversarial)]
    return (norms[0] / (norms[1] + 1e-8)).clamp(0, _MAX_WEIGHT).detach()
