"""Discriminators: a PatchGAN on pixels, and small heads on a frozen backbone's features.

Both take images (B, 3, H, W) on the scale where real ones lie in [0, 1]. Decoded and augmented images leave that
range, so values are not checked here but for the real images in `PixelLoss`. Both give one logit per region, higher
for "real". They use group norms instead of batch norms: a sample's logits never depend on the rest of the batch, so
gradient accumulation and several processes change nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fae_core.images.check import require_image_batch
from fae_core.layers import Fp32Buffers

if TYPE_CHECKING:
    from fae_encoder import Backbone


class Discriminator(Fp32Buffers):
    """What both kinds share: running means of real and decoded images' logits, LeCam's anchors (Tseng et al., 2021).

    They are updated once per step, by the mean over its micro-batches and processes, when the next step begins: every
    micro-batch of a step sees the same anchors, so accumulation changes nothing.
    """

    anchor_decay = 0.999
    anchor_real: Tensor
    anchor_fake: Tensor
    noted: Tensor
    noted_step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_tables(persistent=True)

    def tables(self) -> dict[str, Tensor]:
        """The anchors, and what was noted in the current step."""
        # Sums of both means, the number of micro-batches, and which step it is.
        step = {"noted": torch.zeros(3), "noted_step": torch.full((), -1.0)}
        return {"anchor_real": torch.zeros(()), "anchor_fake": torch.zeros(()), **step}

    @torch.no_grad()
    def begin_step(self, step: int) -> None:
        """Update the running means by what was noted in an earlier step; does nothing within the same one."""
        earlier = self.noted_step != step
        means = self.noted[:2] / self.noted[2].clamp_min(1)
        # A step whose logits were not finite was skipped, and changes nothing here either.
        due = earlier & (self.noted[2] > 0) & means.isfinite().all()
        for anchor, mean in zip((self.anchor_real, self.anchor_fake), means, strict=True):
            anchor.copy_(torch.where(due, anchor.lerp(mean, 1 - self.anchor_decay), anchor))
        self.noted.copy_(torch.where(earlier, 0.0, self.noted))
        self.noted_step.fill_(step)

    @torch.no_grad()
    def note(self, real: Tensor, fake: Tensor) -> None:
        """Keep a micro-batch's means for the next step; every process takes the mean over all of them.

        Args:
            real: Logits of real images, any shape.
            fake: Logits of decoded images, any shape.
        """
        means = torch.stack([real.float().mean(), fake.float().mean()])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(means)
            means /= dist.get_world_size()
        self.noted += torch.cat([means, means.new_ones(1)])


class PatchDiscriminator(Discriminator):
    """PatchGAN (Isola et al., 2017): strided 4x4 convolutions, each logit sees one patch of the image.

    Args:
        image_size: (height, width) in pixels.
        width: Channels of the first layer.
        layers: Halvings after the first; fewer where the image is too small for them.
    """

    def __init__(self, image_size: tuple[int, int], width: int = 64, layers: int = 3) -> None:
        super().__init__()
        # Every halving and the two last 4x4 convolutions need at least 4 pixels.
        layers = max(0, min(layers, int(math.log2(min(image_size) / 8))))
        channels = [width * min(2**i, 8) for i in range(layers + 2)]
        body: list[nn.Module] = [nn.Conv2d(3, channels[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 2):
            stride = 2 if i <= layers else 1
            body += [
                nn.Conv2d(channels[i - 1], channels[i], 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(min(32, channels[i]), channels[i]),
                nn.LeakyReLU(0.2),
            ]
        self.body = nn.Sequential(*body)
        self.to_logits = nn.Conv2d(channels[-1], 1, 4, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 1, h, w)."""
        require_image_batch(images)
        return self.to_logits(self.body(2 * images - 1))


class BackboneDiscriminator(Discriminator):
    """Heads on a frozen backbone's tokens, as StyleGAN-T and RAE use DINO.

    The backbone is not a submodule: it is neither trained nor saved with the discriminator, and its owner moves it.

    Args:
        backbone: Frozen; makes the tokens.
        width: Channels of the heads.
    """

    def __init__(self, backbone: Backbone, width: int = 256) -> None:
        super().__init__()
        self._frozen = (backbone,)
        dim, self.grid = backbone.dim, tuple(backbone.grid)
        self.heads = nn.Sequential(
            nn.Conv2d(dim, width, 1),
            nn.GroupNorm(min(32, width), width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(min(32, width), width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 1, 1),
        )

    @property
    def backbone(self) -> Backbone:
        """The frozen network."""
        return self._frozen[0]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 1, h, w) on the backbone's grid; gradients reach the images, never the backbone's weights."""
        features = self.backbone(images, check=False)
        return self.heads(features.transpose(1, 2).unflatten(2, self.grid))
