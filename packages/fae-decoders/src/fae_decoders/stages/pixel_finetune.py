"""Stage II: the pixel decoder of stage Ib is trained further on features that went through the latent (section 4.2).

Open in the paper: how long stages Ib and II are (its table gives 1 M iterations to the pixel decoder, without dividing
them), whether the learning rate's schedule starts again, and what becomes of stage Ib's discriminator. Here each stage
has a schedule of its own, of the length of `training.steps`, and the discriminator goes on with its weights, LeCam's
anchors and AdamW's moments (kept_discriminator.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fae_core.models.identity import model_checksum
from fae_core.random import SlotRandom
from fae_decoders.fae.any_pixel_decoder import AnyPixelDecoder
from fae_decoders.fae.fae import FAE
from fae_decoders.fae.feature_space import FeatureSpace
from fae_decoders.stages.config import PixelFinetuneConfig
from fae_decoders.stages.pixel_task import PixelTask

if TYPE_CHECKING:
    from fae_core.images import ImageSource
    from fae_encoder.store.feature_store import FeatureStore


class PixelFinetuneTask(PixelTask):
    """Pixel decoder on the reconstructed features of a frozen FAE; exports the whole FAE.

    Args:
        fae: Encoder and feature decoder; frozen.
        decoder: Is trained; from stage Ib, or with fresh weights.
        source: The images.
        config: The stage's settings.
        features: Known backbone features of the same images, read instead of computed.
        discriminator: Checkpoint of stage Ib whose discriminator goes on (see `discriminator_of`); None begins with a
            new one. The losses' `discriminator_start` and `adversarial_start` count this run's own steps.

    Raises:
        FeatureSpaceMismatch: The pixel decoder was trained on other features than the FAE's.
        FAEError: It is for features of another width or grid.
        InvalidFile: The checkpoint has another discriminator.
    """

    def __init__(
        self,
        fae: FAE,
        decoder: AnyPixelDecoder,
        source: ImageSource,
        config: PixelFinetuneConfig,
        features: FeatureStore | None = None,
        discriminator: Path | None = None,
    ) -> None:
        space = FeatureSpace.of(fae.encoder)
        if decoder.config.features is not None:
            space.require(decoder.config.features, "the pixel decoder of the noise stage")
        super().__init__(
            fae.encoder,
            decoder,
            source,
            config.losses,
            config.data,
            config.gradient_checkpointing,
            features,
            discriminator,
        )
        self.fae, self.config, self._space = fae.requires_grad_(False).eval(), config, space

    def identity(self) -> dict[str, Any]:
        decoder = self.fae.feature_decoder
        parts = {} if decoder is None else {"feature_decoder": model_checksum(decoder.state_dict(), decoder.spec)}
        return {**super().identity(), "encoder": self.fae.encoder.fingerprint(), **parts}

    def prepare(self, device: str) -> None:
        self.fae.to(device)
        super().prepare(device)

    def measure(self) -> None:
        if self.data.fits:
            self.data.prepare()

    @torch.no_grad()
    def inputs(self, features: Tensor, random: SlotRandom) -> Tensor:
        posterior = self.encoder.adapt(features)
        z = posterior.sample(random) if self.config.latent == "sample" else posterior.mode()
        z = self.fae.spec.normalize(z)
        if self.config.latent_noise:
            z = z + self.config.latent_noise * random.normal(z.shape[1:], "latent noise", z.device)
        return self.fae.features(z)

    @torch.no_grad()
    def clean_inputs(self, features: Tensor) -> Tensor:
        return self.fae.features(self.fae.spec.normalize(self.encoder.adapt(features).mode()))

    def export(self, folder: Path, modules: dict[str, nn.Module]) -> None:
        decoder = self._trained_decoder(modules, features=self._space)
        FAE(self.fae.encoder, self.fae.feature_decoder, decoder).save_pretrained(folder)
