"""FAEDecoder: the half of an FAE that sampling needs, read from the same folder. No backbone is built, fetched or imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from fae_core.errors import FAEError, InvalidFile
from fae_core.folders import FEATURE_DECODER, LATENT_SPEC, PIXEL_DECODER
from fae_core.models.folder import read_config, require_unchanged
from fae_core.models.sources import resolve_model_folder
from fae_core.spec import LatentSpec
from fae_decoders.fae.any_pixel_decoder import AnyPixelDecoder, load_pixel_decoder
from fae_decoders.fae.feature_decoder import FeatureDecoder

PARTS = ("encoder", "feature_decoder", "pixel_decoder")
NO_PIXEL_DECODER = (
    "no pixel decoder and cannot paint images; train one with `fae train pixel --stage noise` and `--stage finetune`"
)


class FAEDecoder(nn.Module):
    """Normalised latents (B, C, h, w) to features and to images, exactly as the whole FAE decodes them.

    feature_decoder: None where the latents are the features. Raises FeatureSpaceMismatch or FAEError where the two decoders were
    not made for each other.
    """

    def __init__(
        self, spec: LatentSpec, feature_decoder: FeatureDecoder | None, pixel_decoder: AnyPixelDecoder
    ) -> None:
        super().__init__()
        self.spec = spec
        self.feature_decoder = feature_decoder
        self.pixel_decoder = pixel_decoder
        if feature_decoder is not None:
            spec.require(feature_decoder.spec, context="latents and feature decoder")
            self._require_features(feature_decoder, pixel_decoder)
        require_image_shape(spec, pixel_decoder)

    @staticmethod
    def _require_features(feature_decoder: FeatureDecoder, pixel_decoder: AnyPixelDecoder) -> None:
        rebuilt, expected = feature_decoder.config, pixel_decoder.config
        if rebuilt.features is not None and expected.features is not None:
            expected.features.require(rebuilt.features, "pixel decoder and feature decoder")
        elif rebuilt.feature_dim != expected.feature_dim:
            raise FAEError(
                f"the feature decoder makes {rebuilt.feature_dim} channels, the pixel decoder takes {expected.feature_dim}"
            )

    def features(self, z: Tensor) -> Tensor:
        """Reconstructed backbone features (B, N, D)."""
        return features_of(self.spec, self.feature_decoder, z)

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, 3, H, W), fp32, clamped to [0, 1]."""
        return paint(self.spec, self.feature_decoder, self.pixel_decoder, z)

    forward = decode

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        spec: LatentSpec | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> Self:
        """The decoders of the FAE in `source` (see `FAE.from_pretrained`), frozen, in eval mode.

        Raises FAEError where the FAE has no pixel decoder, LatentSpecMismatch, InvalidFile.
        """
        folder = resolve_model_folder(source, part="tokenizer", revision=revision, token=token)
        parts = stored_parts(folder, "fae")
        if "pixel_decoder" not in parts:
            raise FAEError(f"{source} has {NO_PIXEL_DECODER}")
        own_spec = stored_spec(folder)
        if spec is not None:
            spec.require(own_spec, context=str(source))
        feature_decoder = None
        if "feature_decoder" in parts:
            feature_decoder = FeatureDecoder.from_pretrained(folder / FEATURE_DECODER, spec=own_spec)
        decoder = cls(own_spec, feature_decoder, load_pixel_decoder(folder / PIXEL_DECODER))
        return decoder.to(device=device, dtype=dtype).requires_grad_(False).eval()


def features_of(spec: LatentSpec, feature_decoder: FeatureDecoder | None, z: Tensor) -> Tensor:
    """Features (B, N, D) of normalised latents (B, C, h, w): rebuilt, or the latents themselves where nothing compressed them."""
    if feature_decoder is not None:
        return feature_decoder(z)
    spec.check(z)
    return spec.denormalize(z).flatten(2).transpose(1, 2)


def paint(
    spec: LatentSpec, feature_decoder: FeatureDecoder | None, pixel_decoder: AnyPixelDecoder, z: Tensor
) -> Tensor:
    """Images (B, 3, H, W), fp32, clamped to [0, 1], of normalised latents (B, C, h, w)."""
    return pixel_decoder(features_of(spec, feature_decoder, z)).float().clamp(0, 1)


def require_image_shape(spec: LatentSpec, pixel_decoder: AnyPixelDecoder) -> None:
    """Raise FAEError unless the pixel decoder paints images of the size that the latents stand for."""
    if pixel_decoder.config.image_shape != spec.image_shape:
        raise FAEError(
            f"the latents stand for images of {spec.image_shape} pixels, the pixel decoder paints "
            f"{pixel_decoder.config.image_shape}"
        )


def stored_parts(folder: Path, model_type: str) -> list[str]:
    """Which parts a folder holds; raises InvalidFile unless it is an FAE's."""
    stored: dict[str, Any] = read_config(folder)
    if stored.get("model_type") != model_type:
        hint = "; an FAE is written by `fae train autoencoder` and `fae train pixel --stage finetune`"
        raise InvalidFile(f"{folder} holds a {stored.get('model_type')!r} model, not an {model_type!r}{hint}")
    parts = stored.get("config", {}).get("parts")
    if not isinstance(parts, list) or not {"encoder"} < set(parts) <= set(PARTS):
        raise InvalidFile(f"{folder}/config.json does not say which parts the FAE has")
    if not (folder / LATENT_SPEC).is_file():
        raise InvalidFile(f"{folder} has no {LATENT_SPEC}")
    return parts


def stored_spec(folder: Path) -> LatentSpec:
    """The spec of an FAE's folder; raises InvalidFile where it is not the one that was saved."""
    spec = LatentSpec.load(folder)
    require_unchanged(folder, {}, spec)
    return spec
