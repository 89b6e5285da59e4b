"""FAEEncoder: images to latents, by a frozen backbone, a fixed normalisation of its features, and a trained adapter.

images (B, 3, H, W) in [0, 1] -> features (B, N, D) -> posterior N(mean, std) (B, C, h, w) -> z, normalised
by the spec's statistics, where it has any
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.images import AnyImages, ImageTransform, image_batch
from fae_core.models.build import seeded
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_encoder.adapters import create_adapter
from fae_encoder.backbones import build_backbone
from fae_encoder.backbones.preprocess import same_aspect
from fae_encoder.config import STORED as STORED
from fae_encoder.config import WHOLE_FAE as WHOLE_FAE
from fae_encoder.config import FAEEncoderConfig, preset_config
from fae_encoder.feature_norm import FeatureNorm
from fae_encoder.posterior import LOGVAR_RANGE, Posterior
from fae_encoder.saved import SavedEncoder, sample_of


class FAEEncoder(SavedEncoder):
    """Images to latents, as the module's docstring shows. Build it with `from_preset` or `from_pretrained`.

    The spec's mean and std are 0 and 1 until `with_statistics` (`spec.is_normalized` is False, and latents are not
    normalised); its fingerprint is set by `stamp` and when the encoder is saved. The adapter of a preset is not trained
    (`is_trained`): its latents are random projections of the features.

    Args:
        config: the encoder's configuration.
        spec: the latent space of a saved encoder; None = one of the configuration.

    Raises:
        FAEError: if the backbone or adapter cannot be built, or the aspect ratios of image_size and backbone differ.
        LatentSpecMismatch: if the spec does not fit the configuration.
    """

    def __init__(self, config: FAEEncoderConfig, spec: LatentSpec | None = None) -> None:
        super().__init__(config, spec)
        self.backbone = build_backbone(config.backbone)
        self.feature_norm = FeatureNorm(self.backbone.dim)
        self.adapter = create_adapter(config.adapter, self.backbone.dim, config.channels)
        self._initial = sample_of(self.adapter)
        self._warned = False
        # Keep what the backbone resolved (sizes, mean, std), not what was requested.
        self.config = config.model_copy(update={"backbone": self.backbone.config})
        own = self._own_spec()
        fresh = not config.backbone.fingerprint  # latents of a saved encoder exist, whatever its aspect ratios are
        if fresh and not same_aspect(own.image_shape, self.backbone.image_size):
            raise FAEError(
                f"image_size {own.image_shape} and the backbone's {self.backbone.image_size} are of different aspect "
                "ratios; set backbone.image_size too"
            )
        if spec is None:
            self.spec = own
        else:
            own.require(spec, ignore=("mean", "std", "fingerprint"), context="the encoder's configuration")

    @classmethod
    def from_preset(
        cls,
        name: str,
        *,
        weights: str | Path | None = "default",
        spec: LatentSpec | None = None,
        seed: int | None = None,
        **overrides: Any,
    ) -> Self:
        """An encoder with a pretrained backbone and a fresh adapter.

        The adapter is not trained: `encode` gives random projections of the features, and says so once.

        Args:
            name: the preset.
            weights: of the backbone, as in `create_backbone`; "default" = the preset's choice, None or "random" = none.
            spec: the latent space, which must fit the configuration; None = one of the configuration.
            seed: fixes every initial weight, as `fae encode --seed` does; None = torch's global generator draws them.
            overrides: fields of FAEEncoderConfig; `backbone` and `adapter` may be dicts that replace single fields.

        Raises:
            FAEError: for an unknown preset or settings that do not fit.
        """
        config = preset_config(name, overrides, weights)
        return cls(config, spec) if seed is None else seeded(seed, lambda: cls(config, spec))

    @property
    def read_size(self) -> tuple[int, int]:
        """(height, width) at which to read images: the larger of spec and backbone, so that none is enlarged again."""
        sides = zip(self.spec.image_shape, self.backbone.image_size, strict=True)
        height, width = (max(pair) for pair in sides)
        return height, width

    @property
    def transform(self) -> ImageTransform:
        """A Pillow image to the tensor (3, H, W) that `encode` takes, read as `fae encode` reads a file."""
        return ImageTransform(self.read_size)

    def features(self, images: AnyImages) -> Tensor:
        """Normalised features.

        Args:
            images: (B, 3, H, W) in [0, 1] of any size with the spec's aspect ratio; or Pillow images, uint8 tensors,
                arrays with their channels last, and lists of these, see `fae_core.images.accept`.

        Returns:
            (B, N, D).
        """
        return self.feature_norm(self.backbone(image_batch(images, self.read_size, self.backbone.mean.device)))

    def adapt(self, features_BND: Tensor) -> Posterior:
        """The posterior of features.

        Args:
            features_BND: (B, N, D), as `features` returns them.

        Raises:
            FAEError: for another shape.
        """
        height, width = self.backbone.grid
        if features_BND.ndim != 3 or features_BND.shape[1:] != (height * width, self.backbone.dim):
            raise FAEError(
                f"expected features (B, {height * width}, {self.backbone.dim}), got {tuple(features_BND.shape)}"
            )
        mean, logvar = (
            t.float().transpose(1, 2).unflatten(2, (height, width)) for t in self.adapter(features_BND, (height, width))
        )
        return Posterior(mean, logvar.clamp(*LOGVAR_RANGE))

    def dry_run(self, batch: int) -> Tensor:
        """A forward pass of `batch` images, for `fae info`.

        Args:
            batch: How many images.
        """
        return self.posterior(self.dry_input(batch, 3, *self.read_size).clamp(0, 1)).mean

    def posterior(self, images: AnyImages) -> Posterior:
        """The distribution over raw latents, before the spec's normalisation, of images as `features` takes them.

        Args:
            images: (B, 3, H, W) in [0, 1], or what else `features` takes.
        """
        return self.adapt(self.features(images))

    forward = posterior

    @torch.no_grad()
    def encode(self, images: AnyImages, *, sample: bool = False, random: SlotRandom | None = None) -> Tensor:
        """Latents, normalised by the spec's statistics; as the adapter gives them where `spec.is_normalized` is False.

        No graph is built: with gradients latents are `spec.normalize(posterior(images).mode())`, or of its `sample`.
        Warns once where the adapter is not trained (`is_trained`): the latents are then random projections.

        Args:
            images: (B, 3, H, W) in [0, 1], or what else `features` takes.
            sample: draw from the posterior instead of taking its mean.
            random: source of the draws; None = torch's global generator.

        Returns:
            (B, C, h, w).
        """
        self._warn_untrained()
        posterior = self.posterior(images)
        return self.spec.normalize(posterior.sample(random) if sample else posterior.mode()).contiguous()

    def head(self, features_BND: Tensor, pool: str | None = None) -> Tensor:
        """Logits of the backbone's own classifier on normalised (perhaps reconstructed) features; see Backbone.head.

        Args:
            features_BND: Normalised features (B, N, D), original or rebuilt.
            pool: How a transformer's tokens are pooled; None = as the network itself does.
        """
        return self.backbone.head(self.feature_norm.inverse(features_BND), pool)

    @torch.no_grad()
    def measure_features(self, batches: Iterable[Tensor]) -> None:
        """Standardise features by the statistics of these images; before the adapter is trained, never after.

        The training stages measure them in their own pass over the data, with the same sums.

        Args:
            batches: images in [0, 1], (B, 3, H, W) each.
        """
        self.feature_norm.measure(self.backbone(images) for images in batches)

    def with_statistics(self, mean: Any, std: Any) -> Self:
        """Set the per-channel mean and std by which `encode` normalises.

        Args:
            mean: C numbers.
            std: C positive numbers.

        Returns:
            The encoder itself.
        """
        self.spec = self.spec.with_statistics(mean, std)
        return self

    def _warn_untrained(self) -> None:
        """Say once that latents are random projections, where the adapter is not trained."""
        if self._warned or torch.compiler.is_compiling() or self.is_trained:
            return
        self._warned = True
        unscaled = "" if self.spec.is_normalized else ", and not normalised (spec.is_normalized is False)"
        warnings.warn(
            "the adapter of this encoder is not trained: its latents are random projections of the features"
            f"{unscaled}; train one with `fae train autoencoder`, or load a trained tokenizer",
            UserWarning,
            stacklevel=4,  # `encode` below torch's no_grad
        )

    def _own_spec(self) -> LatentSpec:
        height, width = self.backbone.grid
        config = self.config
        return LatentSpec(
            config.channels, height, width, config.image_size, self.backbone.name, adapter=config.adapter.type
        )
