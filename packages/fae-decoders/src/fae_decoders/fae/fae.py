"""FAE: encoder and both decoders as one tokenizer, and the folder in which they travel.

FOLDER/config.json  latent_spec.json  README.md
       encoder/  feature_decoder/  pixel_decoder/      each a model folder of its own, loadable alone

Where the adapter is the identity ("direct predict" of table 5, RAE's latents) the latents are the features, and there is no
feature decoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_core.folders import ENCODER, FEATURE_DECODER, PIXEL_DECODER, README
from fae_core.models.card import model_card
from fae_core.models.folder import write_config
from fae_core.models.identity import model_checksum
from fae_core.models.pretrained import PretrainedModel
from fae_core.models.rounding import round_parameters
from fae_core.models.sources import resolve_model_folder
from fae_core.spec import LatentSpec
from fae_decoders.fae.any_pixel_decoder import AnyPixelDecoder, load_pixel_decoder
from fae_decoders.fae.fae_decoder import (
    NO_PIXEL_DECODER,
    PARTS,
    FAEDecoder,
    features_of,
    paint,
    require_image_shape,
    stored_parts,
    stored_spec,
)
from fae_decoders.fae.feature_decoder import FeatureDecoder
from fae_decoders.fae.feature_space import FeatureSpace

if TYPE_CHECKING:
    from fae_encoder import FAEEncoder, Posterior


class FAE(nn.Module):
    """Images to latents and back. Images are (B, 3, H, W) in [0, 1], latents (B, C, h, w) normalised by `spec`.

    Without a pixel decoder (the first training stage makes such an FAE) it encodes, and decodes to features only.
    A loaded FAE is frozen and in eval mode: no graph is built unless the input asks for gradients. Results do not depend on
    the batch size.

    Raises LatentSpecMismatch or FeatureSpaceMismatch where the parts were not made for each other.
    """

    model_type = "fae"

    def __init__(
        self,
        encoder: FAEEncoder,
        feature_decoder: FeatureDecoder | None,
        pixel_decoder: AnyPixelDecoder | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.feature_decoder = feature_decoder
        self.pixel_decoder = pixel_decoder
        self.require()

    @property
    def spec(self) -> LatentSpec:
        return self.encoder.spec

    @property
    def read_size(self) -> tuple[int, int]:
        """(height, width) at which images are best read for `encode`."""
        return self.encoder.read_size

    @property
    def can_decode(self) -> bool:
        """Whether there is a pixel decoder."""
        return self.pixel_decoder is not None

    def encode(self, images: Tensor) -> Tensor:
        """Normalised latents (B, C, h, w): the posterior's mean. Images of another size are resized."""
        return self.encoder.encode(images)

    def posterior(self, images: Tensor) -> Posterior:
        """Mean and log-variance (B, C, h, w), not normalised."""
        return self.encoder.posterior(images)

    def features(self, z: Tensor) -> Tensor:
        """Reconstructed backbone features (B, N, D) of normalised latents; `encoder.features(images)` are the originals."""
        return features_of(self.spec, self.feature_decoder, z)

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, 3, H, W), fp32, clamped to [0, 1]. Raises FAEError where there is no pixel decoder."""
        if self.pixel_decoder is None:
            raise FAEError(f"this FAE has {NO_PIXEL_DECODER}, or use features(z)")
        return paint(self.spec, self.feature_decoder, self.pixel_decoder, z)

    def reconstruct(self, images: Tensor) -> Tensor:
        """decode(encode(images))."""
        return self.decode(self.encode(images))

    forward = reconstruct

    def require(self) -> None:
        """Check that the parts speak of the same latents and the same features; raises naming every field that differs."""
        if self.feature_decoder is not None:
            self.spec.require(self.feature_decoder.spec, context="encoder and feature decoder")
        elif self.encoder.config.adapter.type != "identity":
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
            require_image_shape(self.spec, self.pixel_decoder)

    def round_parameters(self, dtype: torch.dtype) -> None:
        """Round adapter and decoders to what `dtype` holds; the spec's fingerprint becomes that of the rounded adapter."""
        self.encoder.round_parameters(dtype)
        for decoder in (self.feature_decoder, self.pixel_decoder):
            if decoder is not None:
                round_parameters(decoder, dtype)
        if self.feature_decoder is not None:
            self.feature_decoder.spec = self.encoder.spec

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
        """The FAE in `source`: a folder, a run folder of stage Ia or II, or "owner/name" on the hub. Frozen, in eval mode.

        spec: raises LatentSpecMismatch unless the FAE makes exactly these latents. Raises InvalidFile where files are
        missing, damaged, or of another model.
        """
        from fae_encoder import FAEEncoder

        folder = resolve_model_folder(source, part="tokenizer", revision=revision, token=token)
        parts = stored_parts(folder, cls.model_type)
        own_spec = stored_spec(folder)
        if spec is not None:
            spec.require(own_spec, context=str(source))
        encoder = FAEEncoder.from_pretrained(folder / ENCODER)
        own_spec.require(encoder.spec, context=f"{folder} and its encoder")
        has_features = "feature_decoder" in parts
        feature_decoder = FeatureDecoder.from_pretrained(folder / FEATURE_DECODER) if has_features else None
        pixel_decoder = load_pixel_decoder(folder / PIXEL_DECODER) if "pixel_decoder" in parts else None
        fae = cls(encoder, feature_decoder, pixel_decoder)
        return fae.to(device=device, dtype=dtype).requires_grad_(False).eval()

    @classmethod
    def decoder_from_pretrained(cls, source: str | Path, **options: Any) -> FAEDecoder:
        """What paints its latents, without encoder and backbone; options and errors as in `from_pretrained`."""
        return FAEDecoder.from_pretrained(source, **options)

    # Staged writing and uploading are the same as every model's; only what is written differs (`_write`).
    save_pretrained = PretrainedModel.save_pretrained
    push_to_hub = PretrainedModel.push_to_hub

    def _write(self, folder: Path, card: str | None) -> None:
        parts = [name for name in PARTS if getattr(self, name) is not None]
        for name in parts:  # saving the encoder stamps its spec
            getattr(self, name).save_pretrained(folder / name)
        write_config(folder, self.model_type, {"parts": parts}, "fae_decoders", model_checksum({}, self.spec))
        self.spec.save(folder)
        (folder / README).write_text(model_card(self, card), encoding="utf-8")
