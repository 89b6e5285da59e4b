"""The pixel decoder's objective (equation 4.2): reconstruction, perceptual and adversarial terms with their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_core.images.check import require_range, unchecked_images
from fae_core.models.identity import model_checksum
from fae_core.random import SlotRandom
from fae_decoders.losses.adversarial import (
    adaptive_weight,
    adaptive_weight_per_image,
    discriminator_hinge,
    lecam,
)
from fae_decoders.losses.augment import diff_augment
from fae_decoders.losses.config import PixelLossConfig
from fae_decoders.losses.discriminator import BackboneDiscriminator, Discriminator, PatchDiscriminator
from fae_decoders.losses.lpips import LPIPS
from fae_decoders.losses.perceptual import LogitDistance, StageDistance, WeightedSum, frozen_backbone, require_pair

if TYPE_CHECKING:
    from fae_encoder import Backbone

_FURTHEST = 16  # pixels; half of the largest patch


class PixelLoss:
    """The two losses of a GAN, or the first one alone. `discriminator` is None where there is no adversarial term.

    The discriminator belongs to the task's modules (it is trained and checkpointed); the perceptual network does not.

    Args:
        config: Weights and choices.
        image_size: (height, width) of the images.

    Raises:
        FAEError: A network's weights cannot be loaded.
    """

    def __init__(self, config: PixelLossConfig, image_size: tuple[int, int]) -> None:
        self.config = config
        self.perceptual = make_perceptual(config, image_size)
        self.discriminator = make_discriminator(config, image_size)

    @property
    def micro_batch_matters(self) -> bool:
        """As `Task.micro_batch_matters`: the adaptive weight is a ratio of a whole micro-batch's gradients."""
        return self.discriminator is not None and self.config.adaptive == "last_layer"

    def identity(self) -> dict[str, str]:
        """What the frozen networks are, by content; for `Task.identity`."""
        found = {}
        if self.perceptual is not None:
            found["perceptual_network"] = model_checksum(self.perceptual.state_dict(), None)
        if isinstance(self.discriminator, BackboneDiscriminator):
            found["discriminator_backbone"] = self.discriminator.backbone.fingerprint()
        return found

    def to(self, device: str | torch.device) -> None:
        """Move the frozen networks.

        Args:
            device: Such as "cuda:0".
        """
        if self.perceptual is not None:
            self.perceptual.to(device)
        if isinstance(self.discriminator, BackboneDiscriminator):
            self.discriminator.backbone.to(device)

    def decoder_terms(
        self, decoded: Tensor, target: Tensor, random: SlotRandom, last_layer: Tensor
    ) -> dict[str, Tensor]:
        """The decoder's loss and its parts.

        Args:
            decoded: (B, 3, H, W) with its graph.
            target: (B, 3, H, W) in [0, 1].
            random: Of the augmentation; also says which step it is.
            last_layer: The decoder's last weight, for the adaptive weight.

        Returns:
            "loss" and its parts; "reconstruction" is the loss without the adversarial term.

        Raises:
            FAEError: Targets leave [0, 1], or the shapes differ.
        """
        config = self.config
        require_pair(decoded, target)
        require_range(target, what="target images")
        error = decoded.float() - target.float()
        terms = {"l1": error.abs().mean(), "l2": error.square().mean()}
        loss = config.l1 * terms["l1"] + config.l2 * terms["l2"]
        if self.perceptual is not None:
            with unchecked_images():  # the target was checked above
                terms["perceptual"] = self.perceptual(decoded, target)
            loss = loss + config.perceptual_weight * terms["perceptual"]
        terms["reconstruction"] = loss
        if self.discriminator is not None and random.step >= config.adversarial_start:
            logits = self.discriminator(self._seen(decoded, random, "decoder"))
            per_image = -logits.float().flatten(1).mean(1)
            weight = self._adaptive_weight(loss, per_image.mean(), decoded, last_layer)
            terms["adversarial"] = per_image.mean()
            if config.adaptive != "none":
                terms["adaptive_weight"] = weight.mean()
            loss = loss + config.adversarial_weight * (weight * per_image).mean()
        return {"loss": loss, **terms}

    def discriminator_terms(self, decoded: Tensor, target: Tensor, random: SlotRandom) -> dict[str, Tensor]:
        """The discriminator's loss and its parts.

        Args:
            decoded: (B, 3, H, W), taken without its graph.
            target: (B, 3, H, W) in [0, 1].
            random: Of the augmentation; also says which step it is.

        Returns:
            "loss", "hinge", "lecam", and the mean logits "real_logit" and "fake_logit".

        Raises:
            FAEError: Targets leave [0, 1], or the shapes differ.
        """
        assert isinstance(self.discriminator, Discriminator)
        require_pair(decoded, target)
        require_range(target, what="target images")
        real = self.discriminator(self._seen(target, random, "real"))
        fake = self.discriminator(self._seen(decoded.detach(), random, "fake"))
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
        """What the discriminator sees, in [0, 1]."""
        return (diff_augment(2 * images - 1, random, stream) + 1) / 2 if self.config.augment else images

    def _adaptive_weight(self, base: Tensor, adversarial: Tensor, decoded: Tensor, last_layer: Tensor) -> Tensor:
        if self.config.adaptive == "last_layer":
            return adaptive_weight(base, adversarial, last_layer)
        if self.config.adaptive == "per_image":
            return adaptive_weight_per_image(base, adversarial, decoded)
        return decoded.new_ones(())


def make_perceptual(config: PixelLossConfig, image_size: tuple[int, int]) -> nn.Module | None:
    """The perceptual term that a configuration asks for, or None.

    Args:
        config: Weights and choices.
        image_size: (height, width) of the images.

    Raises:
        FAEError: A network's weights cannot be loaded.
    """
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
        network = _with_short_side(224, image_size, "timm/convnext_small.fb_in1k", config.convnext_weights, None)
        terms.append((0.1 if terms else 1.0, LogitDistance(network)))
    return WeightedSum(terms)


def make_discriminator(config: PixelLossConfig, image_size: tuple[int, int]) -> Discriminator | None:
    """The discriminator that a configuration asks for, or None.

    Args:
        config: Weights and choices.
        image_size: (height, width) of the images.

    Raises:
        FAEError: A backbone's weights cannot be loaded.
    """
    if config.adversarial == "none" or config.adversarial_weight == 0:
        return None
    if config.adversarial == "patchgan":
        return PatchDiscriminator(image_size, config.discriminator_width)
    kind = config.adversarial_backbone, config.adversarial_backbone_weights
    seen, layers = config.adversarial_image_size, config.adversarial_layers
    if seen is None:
        return BackboneDiscriminator(frozen_backbone(*kind, image_size, layers))
    return BackboneDiscriminator(_with_short_side(seen, image_size, *kind, layers))


def _with_short_side(
    pixels: int, image_size: tuple[int, int], name: str, weights: str | None, layers: tuple[int, ...] | None
) -> Backbone:
    """A frozen backbone that sees images of this size with their short side resized to `pixels`.

    The long side is the nearest to the images' aspect ratio that leaves no row or column unseen.

    Args:
        pixels: Of the short side.
        image_size: (height, width) of the images.
        name: As `create_backbone` takes it, like the following.
        weights: Of the network.
        layers: Which of its layers.
    """
    height, width = image_size
    exact = round(pixels * max(image_size) / min(image_size))
    near = range(max(1, exact - _FURTHEST), exact + _FURTHEST + 1) if height != width else [exact]
    sides = sorted(near, key=lambda side: abs(side - exact))
    sizes = [(pixels, side) if height <= width else (side, pixels) for side in sides]
    # Where none is seen whole, the error is that of the first.
    size = next((size for size in sizes if _takes(name, size, layers)), sizes[0])
    backbone = frozen_backbone(name, weights, size, layers)
    backbone.preprocess.distorted = image_size
    return backbone


def _takes(name: str, size: tuple[int, int], layers: tuple[int, ...] | None) -> bool:
    """Whether a network can see images of this size as a whole."""
    try:
        with torch.device("meta"):
            frozen_backbone(name, None, size, layers)
    except FAEError:
        return False
    return True
