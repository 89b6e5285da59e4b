"""What stages Ib and II share: a pixel decoder that paints images from some kind of features, with or without a GAN."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_core.images import load_batch
from fae_core.random import SlotRandom
from fae_core.training import Phase, Task
from fae_decoders.fae.any_pixel_decoder import AnyPixelDecoder
from fae_decoders.losses.pixel import PixelLoss, PixelLossConfig
from fae_decoders.stages.adversary import Adversary
from fae_decoders.stages.data import DataConfig, StageData
from fae_decoders.stages.preview import preview_rows, save_preview

if TYPE_CHECKING:
    from fae_core.images import ImageSource
    from fae_encoder import FAEEncoder
    from fae_encoder.store.feature_store import FeatureStore


class PixelTask(Task):
    """A pixel decoder against target images. Subclasses say which features it sees (`inputs`) and what is exported."""

    ema_modules = ("pixel_decoder",)

    def __init__(
        self,
        encoder: FAEEncoder,
        decoder: AnyPixelDecoder,
        source: ImageSource,
        losses: PixelLossConfig,
        data: DataConfig,
        gradient_checkpointing: bool,
        features: FeatureStore | None = None,
    ) -> None:
        if (decoder.config.feature_dim, decoder.config.grid) != (encoder.backbone.dim, tuple(encoder.backbone.grid)):
            raise FAEError(
                f"the backbone gives {encoder.backbone.dim} channels on {tuple(encoder.backbone.grid)}, the pixel decoder takes "
                f"{decoder.config.feature_dim} on {decoder.config.grid}"
            )
        self.encoder = encoder
        self.losses = PixelLoss(losses, decoder.config.image_shape)
        self.data = StageData(source, encoder, data, decoder.config.image_shape, features)
        decoder.gradient_checkpointing = gradient_checkpointing
        self.modules: dict[str, nn.Module] = {"pixel_decoder": decoder}
        self.phases = [Phase("decoder", ("pixel_decoder",), self._decoder_loss)]
        self._adversary = Adversary(self.losses, self.modules, self.phases)

    def __len__(self) -> int:
        return len(self.data)

    @property
    def read_groups(self) -> list[int] | None:
        return self.data.read_groups

    def identity(self) -> dict[str, str]:
        return self.data.identity()

    def prepare(self, device: str) -> None:
        self.data.to(device)
        self.losses.to(device)
        self.measure()

    def load(self, indices: list[int], random: SlotRandom) -> dict[str, Tensor]:
        return self.data.load(indices, random)

    @abstractmethod
    def measure(self) -> None:
        """Measure what the stage needs from the data, once, before the first step."""

    @abstractmethod
    def inputs(self, features: Tensor, random: SlotRandom) -> Tensor:
        """What the decoder sees in training (B, N, D), given the frozen features."""

    @abstractmethod
    def clean_inputs(self, features: Tensor) -> Tensor:
        """What it sees when it is used."""

    def preview(self, folder: Path, step: int, modules: dict[str, nn.Module]) -> dict[str, float]:
        images = load_batch(self.data.source, preview_rows(len(self)), self.data.image_size).to(self.data.device)
        painted = modules["pixel_decoder"].to(images.device)(self.clean_inputs(self.data.features(images)))
        return save_preview(self.data.as_target(images), painted, folder, step)

    def _decoder_loss(self, batch: dict[str, Tensor], random: SlotRandom) -> dict[str, Tensor]:
        decoder = self.modules["pixel_decoder"]
        with torch.no_grad():
            inputs = self.inputs(self.data.batch_features(batch), random)
        painted = decoder(inputs)
        self._adversary.remember(painted, random)
        return self.losses.decoder_terms(painted, batch["target"], random, decoder.last_layer)
