"""FAEDecoder: the half of an FAE that sampling needs, read from the same folder without building the backbone.

DecoderPair holds what it shares with the whole FAE: decoding, and reading the folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self, Unpack

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.folders import FEATURE_DECODER, PIXEL_DECODER
from fae_core.models.folder import require_unchanged
from fae_core.models.shown import Shown
from fae_core.models.sources import HubOptions, resolve_model_folder
from fae_core.spec import LatentSpec
from fae_decoders.fae.any_pixel_decoder import AnyPixelDecoder, load_pixel_decoder
from fae_decoders.fae.feature_decoder import FeatureDecoder
from fae_decoders.fae.stored import FAE_TYPE, require_features, require_image_shape, stored_parts

NO_PIXEL_DECODER = (
    "no pixel decoder and cannot paint images; train one with `fae train pixel --stage noise` and `--stage finetune`"
)


class DecoderPair(Shown):
    """A feature decoder and a pixel decoder for the latents of one `spec`: the base of FAE and FAEDecoder.

    Attributes:
        spec: The latents that are decoded.
        feature_decoder: Latents to features; None where the latents are the features.
        pixel_decoder: Features to images; None where only features are decoded.
    """

    model_type: ClassVar[str] = FAE_TYPE
    model_parts: ClassVar[tuple[str, ...]]  # folders that are read, "" for the FAE's own files
    pipeline_tag: ClassVar[str | None] = "image-to-image"

    feature_decoder: FeatureDecoder | None
    pixel_decoder: AnyPixelDecoder | None
    spec: LatentSpec

    def features(self, z: Tensor) -> Tensor:
        """Backbone features of normalised latents: reconstructed, or the latents themselves without a feature decoder.

        Args:
            z: (B, C, h, w), normalised.

        Returns:
            (B, N, D).
        """
        if self.feature_decoder is not None:
            return self.feature_decoder(z)
        self.spec.check(z)
        return self.spec.denormalize(z).flatten(2).transpose(1, 2)

    def decode(self, z: Tensor) -> Tensor:
        """Images of normalised latents.

        Args:
            z: (B, C, h, w), normalised.

        Returns:
            (B, 3, H, W), fp32, clamped to [0, 1].

        Raises:
            FAEError: There is no pixel decoder.
        """
        if self.pixel_decoder is None:
            raise FAEError(f"this FAE has {NO_PIXEL_DECODER}, or use features(z)")
        return self.pixel_decoder(self.features(z)).float().clamp(0, 1)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        spec: LatentSpec | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        **hub: Unpack[HubOptions],
    ) -> Self:
        """The FAE in `source`, or its decoders, frozen and in eval mode. Of a hub repository only these are fetched.

        Args:
            source: A folder, a run folder of stage Ia or II, or "owner/name" on the hub.
            spec: The latents that it must have been made for.
            device: Where to put it.
            dtype: What to cast its weights to.
            hub: revision, token, cache_dir, local_files_only, subfolder and variant, see `HubOptions`.

        Raises:
            LatentSpecMismatch: It was made for other latents than `spec`.
            InvalidFile: Files are missing, damaged, or of another model.
            UnknownName: An option is unknown.
            FAEError: An FAEDecoder is asked for and there is no pixel decoder.
        """
        folder = resolve_model_folder(source, part="tokenizer", parts=cls.model_parts, **hub)
        parts, own_spec = stored_parts(folder), LatentSpec.load(folder)
        require_unchanged(folder, {}, own_spec)
        if spec is not None:
            spec.require(own_spec, context=str(source))
        model = cls._load(folder, parts, own_spec, source, hub.get("variant"))
        return model.to(device=device, dtype=dtype).requires_grad_(False).eval()

    @classmethod
    def _load(cls, folder: Path, parts: list[str], spec: LatentSpec, source: object, variant: str | None) -> Self:
        """The model made of the parts in `folder`.

        Args:
            folder: Of the whole FAE.
            parts: That it has.
            spec: Of its latents.
            source: What was asked for.
            variant: Of the weights.
        """
        raise NotImplementedError

    @staticmethod
    def _load_decoders(
        folder: Path, parts: list[str], spec: LatentSpec, variant: str | None
    ) -> tuple[FeatureDecoder | None, AnyPixelDecoder | None]:
        """Both decoders, None for one that `parts` does not name."""
        has_features, has_pixels = (part in parts for part in (FEATURE_DECODER, PIXEL_DECODER))
        features = (
            FeatureDecoder.from_pretrained(folder / FEATURE_DECODER, spec=spec, variant=variant)
            if has_features
            else None
        )
        return features, load_pixel_decoder(folder / PIXEL_DECODER, variant=variant) if has_pixels else None


class FAEDecoder(DecoderPair):
    """Normalised latents (B, C, h, w) to features and to images, exactly as the whole FAE decodes them.

    Args:
        spec: The latents.
        feature_decoder: None where the latents are the features.
        pixel_decoder: Features to images.

    Raises:
        LatentSpecMismatch: The feature decoder was made for other latents.
        FeatureSpaceMismatch: The decoders were trained on different features.
        FAEError: The number of feature channels or the image sizes differ.
    """

    model_parts: ClassVar[tuple[str, ...]] = ("", FEATURE_DECODER, PIXEL_DECODER)

    def __init__(
        self, spec: LatentSpec, feature_decoder: FeatureDecoder | None, pixel_decoder: AnyPixelDecoder
    ) -> None:
        super().__init__()
        self.spec = spec
        self.feature_decoder, self.pixel_decoder = feature_decoder, pixel_decoder
        if feature_decoder is not None:
            spec.require(feature_decoder.spec, context="latents and feature decoder")
            require_features(feature_decoder.config, pixel_decoder.config)
        require_image_shape(spec, pixel_decoder.config)

    forward = DecoderPair.decode

    @classmethod
    def _load(cls, folder: Path, parts: list[str], spec: LatentSpec, source: object, variant: str | None) -> Self:
        if PIXEL_DECODER not in parts:
            raise FAEError(f"{source} has {NO_PIXEL_DECODER}")
        feature_decoder, pixel_decoder = cls._load_decoders(folder, parts, spec, variant)
        assert pixel_decoder is not None
        return cls(spec, feature_decoder, pixel_decoder)
