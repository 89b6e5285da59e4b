"""The pixel decoder's objective (equation 4.2): reconstruction, perceptual and adversarial terms with their weights."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fae_core.config import Config
from fae_core.images.check import require_range, unchecked_images
from fae_core.random import SlotRandom
from fae_core.training.config import Betas
from fae_decoders.losses.adversarial import (
    Adaptive,
    adaptive_weight,
    adaptive_weight_per_image,
    discriminator_hinge,
    lecam,
)
from fae_decoders.losses.augment import diff_augment
from fae_decoders.losses.discriminator import BackboneDiscriminator, Discriminator, PatchDiscriminator
from fae_decoders.losses.lpips import LPIPS, Trunk
from fae_decoders.losses.perceptual import LogitDistance, StageDistance, WeightedSum, frozen_backbone, require_pair


class PixelLossConfig(Config):
    """Weights and choices; the paper names the three terms and leaves every number open. Images are compared in [0, 1].

    l1, l2: weights of the mean absolute and mean squared error.
    perceptual: "lpips"; "convnext" (logits of ConvNeXt-S); "lpips+convnext" (1 and 0.1, TA-TiTok's mixture); "backbone" (unit
        features of `perceptual_backbone`'s `perceptual_layers`, which needs no download with weights "pip"); or "none".
    adversarial: "patchgan", "backbone" (heads on the frozen `adversarial_backbone`), or "none".
    discriminator_start, adversarial_start: the steps in which the discriminator begins to learn and the decoder to listen.
    adaptive: scales the adversarial term to the gradient of the others: "last_layer" as VQGAN and RAE, "per_image" (exact
        under accumulation), "none" as TiTok.
    lecam: weight of LeCam's regulariser. augment: DiffAugment before the discriminator.
    """

    l1: float = Field(1.0, ge=0)
    l2: float = Field(0.0, ge=0)

    perceptual: Literal["none", "lpips", "convnext", "lpips+convnext", "backbone"] = "lpips"
    perceptual_weight: float = Field(1.0, ge=0)
    lpips_trunk: Trunk = "vgg"
    lpips_weights: str | None = None
    convnext_weights: str = "pretrained"
    perceptual_backbone: str = "timm/tf_efficientnet_lite0"
    perceptual_backbone_weights: str | None = "pip"
    perceptual_layers: tuple[int, ...] = (0, 1, 2)

    adversarial: Literal["none", "patchgan", "backbone"] = "none"
    adversarial_weight: float = Field(0.1, ge=0)
    discriminator_start: int = Field(0, ge=0)
    adversarial_start: int = Field(0, ge=0)
    discriminator_width: int = Field(64, ge=8, multiple_of=8)
    discriminator_learning_rate: float | None = Field(None, gt=0)
    discriminator_betas: Betas = (0.5, 0.9)
    adversarial_backbone: str = "timm/tf_efficientnet_lite0"
    adversarial_backbone_weights: str | None = "pip"
    adversarial_layers: tuple[int, ...] | None = None
    adaptive: Adaptive = "none"
    lecam: float = Field(1e-3, ge=0)
    augment: bool = True

    @model_validator(mode="after")
    def _something_to_learn(self) -> PixelLossConfig:
        if self.l1 == self.l2 == 0 and (self.perceptual == "none" or self.perceptual_weight == 0):
            raise ValueError("l1, l2 and perceptual are all off: the decoder would not see the target")
        if self.adversarial_start < self.discriminator_start:
            raise ValueError("adversarial_start lies before discriminator_start: the decoder would listen to noise")
        return self


class PixelLoss:
    """The two losses of a GAN, or the first one alone. `discriminator` is None where there is no adversarial term.

    The discriminator belongs to the task's modules (it is trained and checkpointed); the perceptual network does not.
    """

    def __init__(self, config: PixelLossConfig, image_size: tuple[int, int]) -> None:
        self.config = config
        self.perceptual = make_perceptual(config, image_size)
        self.discriminator = make_discriminator(config, image_size)

    def to(self, device: str | torch.device) -> None:
        if self.perceptual is not None:
            self.perceptual.to(device)
        if isinstance(self.discriminator, BackboneDiscriminator):
            self.discriminator.backbone.to(device)

    def decoder_terms(
        self, painted: Tensor, target: Tensor, random: SlotRandom, last_layer: nn.Parameter
    ) -> dict[str, Tensor]:
        """ "loss" and its parts for the decoder; "reconstruction" is the loss without the adversarial term.

        painted, target: (B, 3, H, W), painted with its graph. Raises FAEError for targets that leave [0, 1]."""
        config = self.config
        require_pair(painted, target)
        require_range(target, what="target images")
        error = painted.float() - target.float()
        terms = {"l1": error.abs().mean(), "l2": error.square().mean()}
        loss = config.l1 * terms["l1"] + config.l2 * terms["l2"]
        if self.perceptual is not None:
            with unchecked_images():  # the target was looked at above
                terms["perceptual"] = self.perceptual(painted, target)
            loss = loss + config.perceptual_weight * terms["perceptual"]
        terms["reconstruction"] = loss
        if self.discriminator is not None and random.step >= config.adversarial_start:
            logits = self.discriminator(self._seen(painted, random, "decoder"))
            per_image = -logits.float().flatten(1).mean(1)
            weight = self._adaptive_weight(loss, per_image.mean(), painted, last_layer)
            terms["adversarial"] = per_image.mean()
            if config.adaptive != "none":
                terms["adaptive_weight"] = weight.mean()
            loss = loss + config.adversarial_weight * (weight * per_image).mean()
        return {"loss": loss, **terms}

    def discriminator_terms(self, painted: Tensor, target: Tensor, random: SlotRandom) -> dict[str, Tensor]:
        """ "loss" and its parts for the discriminator. `painted` is taken without its graph."""
        assert isinstance(self.discriminator, Discriminator)
        require_pair(painted, target)
        require_range(target, what="target images")
        real = self.discriminator(self._seen(target, random, "real"))
        fake = self.discriminator(self._seen(painted.detach(), random, "fake"))
        hinge = discriminator_hinge(real, fake)
        self.discriminator.begin_step(random.step)
        anchors = self.discriminator.anchor_real, self.discriminator.anchor_fake
        regularizer = lecam(real, fake, *anchors) if self.config.lecam else hinge.new_zeros(())
        self.discriminator.note(real, fake)
        return {
            "loss": hinge + self.config.lecam * regularizer,
            "hinge": hinge,
            "lecam": regularizer,
            "real_logit": real.float().mean(),
            "fake_logit": fake.float().mean(),
        }

    def _seen(self, images: Tensor, random: SlotRandom, stream: str) -> Tensor:
        """What the discriminator is shown, in [0, 1]."""
        return (diff_augment(2 * images - 1, random, stream) + 1) / 2 if self.config.augment else images

    def _adaptive_weight(self, base: Tensor, adversarial: Tensor, painted: Tensor, last_layer: nn.Parameter) -> Tensor:
        if self.config.adaptive == "last_layer":
            return adaptive_weight(base, adversarial, last_layer)
        if self.config.adaptive == "per_image":
            return adaptive_weight_per_image(base, adversarial, painted)
        return painted.new_ones(())


def make_perceptual(config: PixelLossConfig, image_size: tuple[int, int]) -> nn.Module | None:
    """The perceptual term that a configuration asks for, or None."""
    if config.perceptual == "none" or config.perceptual_weight == 0:
        return None
    if config.perceptual == "backbone":
        return StageDistance(
            frozen_backbone(
                config.perceptual_backbone, config.perceptual_backbone_weights, image_size, config.perceptual_layers
            )
        )
    terms: list[tuple[float, nn.Module]] = []
    if "lpips" in config.perceptual:
        terms.append((1.0, LPIPS(config.lpips_trunk, config.lpips_weights)))
    if "convnext" in config.perceptual:
        # Its classes were learned at a short side of 224 pixels.
        size = tuple(round(224 * side / min(image_size)) for side in image_size)
        network = frozen_backbone("timm/convnext_small.fb_in1k", config.convnext_weights, size, None)
        terms.append((0.1 if terms else 1.0, LogitDistance(network)))
    return WeightedSum(terms)


def make_discriminator(config: PixelLossConfig, image_size: tuple[int, int]) -> Discriminator | None:
    """The discriminator that a configuration asks for, or None."""
    if config.adversarial == "none" or config.adversarial_weight == 0:
        return None
    if config.adversarial == "patchgan":
        return PatchDiscriminator(image_size, config.discriminator_width)
    backbone = frozen_backbone(
        config.adversarial_backbone, config.adversarial_backbone_weights, image_size, config.adversarial_layers
    )
    return BackboneDiscriminator(backbone)
