"""FAE: encoder and both decoders as one tokenizer, and the folder that holds them.

FOLDER/config.json  latent_spec.json  README.md
       encoder/  feature_decoder/  pixel_decoder/      each a model folder of its own, loadable alone

Where the adapter is the identity ("direct predict" of table 5, RAE's latents) the latents are the features, and
there is no feature decoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.folders import ENCODER, README
from fae_core.images import AnyImages, ImageTransform
from fae_core.models.card import Card, model_card
from fae_core.models.folder import write_config
from fae_core.models.identity import model_checksum
from fae_core.models.pretrained import PretrainedModel
from fae_core.models.rounding import round_parameters
from fae_core.spec import LatentSpec
from fae_decoders.fae.any_pixel_decoder import AnyPixelDecoder
from fae_decoders.fae.fae_decoder import DecoderPair, FAEDecoder
from fae_decoders.fae.feature_decoder import FeatureDecoder
from fae_decoders.fae.feature_space import FeatureSpace
from fae_decoders.fae.stored import PARTS, require_image_shape

if TYPE_CHECKING:
    from fae_encoder import FAEEncoder, Posterior


class FAE(DecoderPair):
    """Images to latents and back. Images are (B, 3, H, W) in [0, 1], latents (B, C, h, w) normalised by `spec`.

    A loaded FAE is frozen and in eval mode. `encode`, and with it `reconstruct`, never passes gradients to images or
    encoder; `posterior` and `decode` do, where their input or a weight asks for them. Results do not depend on the
    batch size.

    Args:
        encoder: Images to latents.
        feature_decoder: Latents to features; None where the latents are the features.
        pixel_decoder: Features to images; None, as after stage Ia, for an FAE that decodes to features only.

    Raises:
        LatentSpecMismatch: Encoder and feature decoder were made for different latents.
        FeatureSpaceMismatch: A decoder was trained on other features than the encoder's.
        FAEError: Channels or image sizes differ, or a feature decoder is missing.
    """

    model_parts: ClassVar[tuple[str, ...]] = ("", *PARTS)
    decoder_parts: ClassVar[tuple[str, ...]] = FAEDecoder.model_parts

    def __init__(
        self,
        encoder: FAEEncoder,
        feature_decoder: FeatureDecoder | None,
        pixel_decoder: AnyPixelDecoder | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.feature_decoder, self.pixel_decoder = feature_decoder, pixel_decoder
        self._agreed = encoder.spec  # the latents that encoder and feature decoder had in common last
        self.require()

    @property
    def spec(self) -> LatentSpec:  # pyright: ignore[reportIncompatibleVariableOverride] (the encoder's own)
        """The encoder's latents, by whose present statistics `decode` undoes what `encode` did."""
        return self.encoder.spec

    @property
    def read_size(self) -> tuple[int, int]:
        """(height, width) at which images are best read for `encode`."""
        return self.encoder.read_size

    @property
    def can_decode(self) -> bool:
        """Whether there is a pixel decoder."""
        return self.pixel_decoder is not None

    @property
    def transform(self) -> ImageTransform:
        """A Pillow image to the tensor (3, H, W) that `encode` takes, read as `fae encode` reads a file."""
        return self.encoder.transform

    def encode(self, images: AnyImages) -> Tensor:
        """Latents: the posterior's mean, normalised by the spec's statistics, where it has any; without gradients.

        Args:
            images: (B, 3, H, W) in [0, 1], another size is resized; or Pillow images, uint8 tensors, arrays with their
                channels last, and lists of these, see `fae_core.images.accept`.

        Returns:
            (B, C, h, w).
        """
        return self.encoder.encode(images)

    def posterior(self, images: AnyImages) -> Posterior:
        """Mean and log-variance (B, C, h, w) of images as `encode` takes them, not normalised.

        Args:
            images: (B, 3, H, W) in [0, 1], or what else `encode` takes.
        """
        return self.encoder.posterior(images)

    def features(self, z: Tensor) -> Tensor:
        """Backbone features of normalised latents: reconstructed, or the latents themselves without a feature decoder.

        Args:
            z: (B, C, h, w), normalised.

        Returns:
            (B, N, D).

        Raises:
            LatentSpecMismatch: The feature decoder was replaced by one that was made for other latents.
        """
        self._share_spec()
        return super().features(z)

    def reconstruct(self, images: AnyImages) -> Tensor:
        """decode(encode(images)); no gradients reach the images.

        Args:
            images: (B, 3, H, W) in [0, 1], or what else `encode` takes.
        """
        return self.decode(self.encode(images))

    forward = reconstruct

    def require(self) -> None:
        """Check that the parts were made for the same latents and the same features.

        Statistics and weights of the encoder may have changed since the FAE was made: its feature decoder follows them.

        Raises:
            LatentSpecMismatch: Names every field of the latents that differs.
            FeatureSpaceMismatch: Names every field of the features that differs.
            FAEError: Channels or image sizes differ, or a feature decoder is missing.
        """
        self._share_spec()
        if self.feature_decoder is None and self.encoder.config.adapter.type != "identity":
            raise FAEError("an FAE without a feature decoder needs an identity adapter, whose latents are the features")
        space = FeatureSpace.of(self.encoder)
        for name, part in (("feature decoder", self.feature_decoder), ("pixel decoder", self.pixel_decoder)):
            if part is None:
                continue
            if part.config.features is not None:
                space.require(part.config.features, f"encoder and {name}")
            elif part.config.feature_dim != space.dim:
                raise FAEError(
                    f"the encoder's features have {space.dim} channels, the {name}'s {part.config.feature_dim}"
                )
        if self.pixel_decoder is not None:
            require_image_shape(self.spec, self.pixel_decoder.config)

    def round_parameters(self, dtype: torch.dtype) -> None:
        """Round adapter and decoders to what `dtype` holds; the spec gets the rounded adapter's fingerprint.

        Args:
            dtype: Such as torch.float16; the parameters keep the type that they have.
        """
        self.encoder.round_parameters(dtype)
        for decoder in (self.feature_decoder, self.pixel_decoder):
            if decoder is not None:
                round_parameters(decoder, dtype)
        self._share_spec()

    def _share_spec(self) -> None:
        """Give the feature decoder the encoder's present spec. Raises LatentSpecMismatch if it was made for another."""
        decoder, spec = self.feature_decoder, self.encoder.spec
        if decoder is None or decoder.spec is spec is self._agreed:
            return
        if decoder.spec != spec:  # the encoder was changed, or the decoder replaced
            self._agreed.require(decoder.spec, context="encoder and feature decoder")
        decoder.spec = self._agreed = spec

    @classmethod
    def _load(cls, folder: Path, parts: list[str], spec: LatentSpec, source: object, variant: str | None) -> Self:
        from fae_encoder import FAEEncoder

        encoder = FAEEncoder.from_pretrained(folder / ENCODER, variant=variant)
        spec.require(encoder.spec, context=f"{folder} and its encoder")
        return cls(encoder, *cls._load_decoders(folder, parts, spec, variant))

    @classmethod
    def decoder_from_pretrained(cls, source: str | Path, **options: Any) -> FAEDecoder:
        """What decodes its latents, without encoder and backbone; options and errors as in `from_pretrained`.

        Args:
            source: A model folder, run, bundle or hub repository.
            options: As in `from_pretrained`: device, dtype, `HubOptions`.
        """
        return FAEDecoder.from_pretrained(source, **options)

    # Staged writing and uploading are the same as every model's; only what is written differs (`_write`).
    save_pretrained = PretrainedModel.save_pretrained
    push_to_hub = PretrainedModel.push_to_hub

    def _write(self, folder: Path, card: Card) -> None:
        parts = [name for name in PARTS if getattr(self, name) is not None]
        for name in parts:
            getattr(self, name).save_pretrained(folder / name)
            if name == ENCODER:  # which stamps its spec
                self.require()
        write_config(folder, self.model_type, {"parts": parts}, "fae_decoders", model_checksum({}, self.spec))
        self.spec.save(folder)
        (folder / README).write_text(model_card(self, card), encoding="utf-8")
