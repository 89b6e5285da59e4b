"""Stage Ib: the pixel decoder learns to decode frozen features with Gaussian noise on them (section 4.2).

The noise makes it robust to features that a feature decoder, or a generator before it, gets slightly wrong. It needs no
latents, so one decoder serves every latent size of a backbone.

How strong the noise is: the paper has sigma = 0.4 for DINOv2 and scales it "according to the norm of the
embeddings" for others. Three units of `sigma`:

    relative: false                 the features' own, as the paper's 0.4 for DINOv2-g is printed
    relative: true                  the features' root mean square (rms) over the training images
    relative: true, reference_rms   rms / reference_rms, the paper's rule: reference_rms is that of DINOv2-g's features

The rms is measured after FeatureNorm, so it is 1 where features are standardised: by the rule sigma is then 0.4 /
reference_rms, the same share of the features' rms as for any other backbone. reference_rms is measured before any
FeatureNorm, because the paper's number is for DINOv2-g's features as they are.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fae_core.models.identity import model_checksum
from fae_core.random import SlotRandom
from fae_decoders.fae.any_pixel_decoder import AnyPixelDecoder
from fae_decoders.fae.feature_space import FeatureSpace
from fae_decoders.stages.config import NOT_MEASURED, PixelNoiseConfig
from fae_decoders.stages.data import StageData
from fae_decoders.stages.pixel_task import PixelTask

if TYPE_CHECKING:
    from fae_core.images import ImageSource
    from fae_encoder import FAEEncoder
    from fae_encoder.store.feature_store import FeatureStore


log = logging.getLogger("fae")


class PixelNoiseTask(PixelTask):
    """Pixel decoder on frozen features + noise; exports a pixel decoder that knows its feature space.

    Args:
        encoder: Makes the features; frozen.
        decoder: Is trained.
        source: The images.
        config: The stage's settings.
        features: Known features of the same images, read instead of computed.
        reference: Encoder whose backbone's features sigma was chosen for, where `config.reference_rms` is to be
            measured; only `prepare` uses it.

    Raises:
        FAEError: The decoder is for features of another width or grid, sigma was chosen for another backbone, or
            `config.reference_rms` is not known.
    """

    def __init__(
        self,
        encoder: FAEEncoder,
        decoder: AnyPixelDecoder,
        source: ImageSource,
        config: PixelNoiseConfig,
        features: FeatureStore | None = None,
        reference: FAEEncoder | None = None,
    ) -> None:
        config.require_reference(reference is not None)
        standardised = encoder.config.standardize_features or not encoder.feature_norm.is_identity
        config.require_unit(encoder.backbone.name, standardised)
        super().__init__(encoder, decoder, source, config.losses, config.data, config.gradient_checkpointing, features)
        self.config, self._reference = config, reference
        self.noise_std = config.sigma

    def identity(self) -> dict[str, Any]:
        known = {**super().identity(), "feature_norm": model_checksum(self.encoder.feature_norm.state_dict(), None)}
        return known if self._reference is None else {**known, "reference": self._reference.backbone.fingerprint()}

    def measure(self) -> None:
        if not (self.config.relative or self.data.wants_norm or self.data.fits):
            return
        reference = self._reference_rms()
        rms = self.data.prepare()
        if not self.config.relative:
            return
        self.noise_std = self.config.sigma * rms / (1 if reference is None else reference)
        known = {"reference_rms": reference} if reference is not None else {}
        self.measured = {"feature_rms": rms, **known, "noise_sigma": self.noise_std}
        units = "standardised units" if not self.encoder.feature_norm.is_identity else "the features' own units"
        log.info("noise on features: standard deviation %.4g in %s; %s", self.noise_std, units, self.measured)

    def _reference_rms(self) -> float | None:
        """The reference's root mean square, known or measured; the reference is let go then."""
        reference, self._reference = self._reference, None
        if reference is None:
            assert self.config.reference_rms != NOT_MEASURED  # checked in the beginning
            return self.config.reference_rms
        data = StageData(self.data.source, reference, self.config.data)
        data.to(self.data.device)
        return data.raw_rms()

    def inputs(self, features: Tensor, random: SlotRandom) -> Tensor:
        return features + self.noise_std * random.normal(features.shape[1:], "feature noise", features.device)

    def clean_inputs(self, features: Tensor) -> Tensor:
        return features

    def export(self, folder: Path, modules: dict[str, nn.Module]) -> None:
        learned = {"features": FeatureSpace.of(self.encoder), "noise_sigma": self.noise_std}
        self._trained_decoder(modules, **learned).save_pretrained(folder)
