"""Stage Ib: the pixel decoder learns to decode frozen features with Gaussian noise on them (section 4.2).

The noise makes it robust to features that a feature decoder, or a generator before it, gets slightly wrong. It needs no
latents, so one decoder serves every latent size of a backbone.

How strong the noise is: the paper has sigma = 0.4 for DINOv2 and scales it "according to the norm of the
embeddings" for others. Here sigma is a fraction of the features' root mean square over the training images, which
is 1 where FeatureNorm standardises them; `relative: false` takes it in the features' own units, as the paper's
number for DINOv2 is printed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field
from torch import Tensor, nn

from fae_core.config import Config
from fae_core.models.identity import model_checksum
from fae_core.random import SlotRandom
from fae_decoders.fae.any_pixel_decoder import AnyPixelDecoder
from fae_decoders.fae.feature_space import FeatureSpace
from fae_decoders.losses.pixel import PixelLossConfig
from fae_decoders.stages.data import DataConfig
from fae_decoders.stages.pixel_task import PixelTask

if TYPE_CHECKING:
    from fae_core.images import ImageSource
    from fae_encoder import FAEEncoder
    from fae_encoder.store.feature_store import FeatureStore


class PixelNoiseConfig(Config):
    """Settings of stage Ib.

    Args:
        sigma: Standard deviation of the noise.
        relative: Whether sigma is a fraction of the features' root mean square over the data.
        gradient_checkpointing: Recompute the decoder's blocks in the backward pass.
        losses: Weights and choices of the loss terms.
        data: How the images are read.
    """

    sigma: float = Field(default=0.4, ge=0)
    relative: bool = True
    gradient_checkpointing: bool = False
    losses: PixelLossConfig = PixelLossConfig()
    data: DataConfig = DataConfig()


class PixelNoiseTask(PixelTask):
    """Pixel decoder on frozen features + noise; exports a pixel decoder that knows its feature space.

    Args:
        encoder: Makes the features; frozen.
        decoder: Is trained.
        source: The images.
        config: The stage's settings.
        features: Known features of the same images, read instead of computed.

    Raises:
        FAEError: The decoder is for features of another width or grid.
    """

    def __init__(
        self,
        encoder: FAEEncoder,
        decoder: AnyPixelDecoder,
        source: ImageSource,
        config: PixelNoiseConfig,
        features: FeatureStore | None = None,
    ) -> None:
        super().__init__(encoder, decoder, source, config.losses, config.data, config.gradient_checkpointing, features)
        self.config = config
        self.noise_std = config.sigma

    def identity(self) -> dict[str, str]:
        return {**super().identity(), "feature_norm": model_checksum(self.encoder.feature_norm.state_dict(), None)}

    def measure(self) -> None:
        if not (self.config.relative or self.data.wants_norm or self.data.fits):
            return
        rms = self.data.prepare()
        if self.config.relative:
            self.noise_std = self.config.sigma * rms

    def inputs(self, features: Tensor, random: SlotRandom) -> Tensor:
        return features + self.noise_std * random.normal(features.shape[1:], "feature noise", features.device)

    def clean_inputs(self, features: Tensor) -> Tensor:
        return features

    def export(self, folder: Path, modules: dict[str, nn.Module]) -> None:
        learned = {"features": FeatureSpace.of(self.encoder), "noise_sigma": self.noise_std}
        self._trained_decoder(modules, **learned).save_pretrained(folder)
