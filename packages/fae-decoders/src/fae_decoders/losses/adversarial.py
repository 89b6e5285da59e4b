"""The adversarial terms: hinge losses, LeCam's regulariser, and the weight relative to the reconstruction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core.errors import FAEError

_MAX_WEIGHT = 1e4


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """mean(relu(1 - real)) / 2 + mean(relu(1 + fake)) / 2: what the discriminator minimises.

    Args:
        real: Logits of real images, any shape.
        fake: Logits of decoded images, any shape.
    """
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def lecam(real: Tensor, fake: Tensor, anchor_real: Tensor, anchor_fake: Tensor) -> Tensor:
    """LeCam's regulariser (Tseng et al., 2021): keeps real and decoded images' logits near each other's running mean.

    Args:
        real: Logits of real images, any shape.
        fake: Logits of decoded images, any shape.
        anchor_real: Running mean of real logits, a scalar.
        anchor_fake: Running mean of decoded images' logits, a scalar.
    """
    above = F.relu(real.float() - anchor_fake).square().mean()
    below = F.relu(anchor_real - fake.float()).square().mean()
    return above + below


def adaptive_weight(base: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """|d base / d W| / |d adversarial / d W| at the decoder's last weight W (VQGAN; RAE).

    It depends on the whole micro-batch.

    Args:
        base: The loss without the adversarial term, a scalar.
        adversarial: The adversarial term, a scalar.
        last_layer: W.

    Returns:
        A scalar without gradient.

    Raises:
        FAEError: The weight is sharded, so that torch cannot give its gradient.
    """
    if hasattr(last_layer, "full_tensor"):
        raise FAEError("adaptive: last_layer needs whole weights; with parallel: fsdp take adaptive: per_image or none")
    (of_base,) = torch.autograd.grad(base, last_layer, retain_graph=True)
    (of_adversarial,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (of_base.norm() / (of_adversarial.norm() + 1e-6)).clamp(0, _MAX_WEIGHT).detach()


def adaptive_weight_per_image(base: Tensor, adversarial: Tensor, images: Tensor) -> Tensor:
    """The same ratio taken at the decoded images: no image's weight depends on the rest of the batch.

    This is ours, not VQGAN's. It does not change under gradient accumulation and sharding.

    Args:
        base: The loss without the adversarial term, a scalar.
        adversarial: The adversarial term, a scalar.
        images: The decoded images (B, 3, H, W) with their graph.

    Returns:
        (B,), without gradient.
    """
    (of_base,) = torch.autograd.grad(base, images, retain_graph=True)
    (of_adversarial,) = torch.autograd.grad(adversarial, images, retain_graph=True)
    norms = [gradient.float().flatten(1).norm(dim=1) for gradient in (of_base, of_adversarial)]
    return (norms[0] / (norms[1] + 1e-8)).clamp(0, _MAX_WEIGHT).detach()
