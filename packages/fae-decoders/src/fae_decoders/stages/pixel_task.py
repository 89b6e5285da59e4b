"""What stages Ib and II share: a pixel decoder that paints images from some kind of features, with or without a GAN."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_core.images import load_batch, save_grid
from fae_core.random import SlotRandom
from fae_core.training import Phase, Task
from fae_decoders.losses.pixel import PixelLoss, PixelLossConfig
from fae_decoders.pixel_decoder import PixelDecoder
from fae_decoders.stages.data import DataConfig, StageData

if TYPE_CHECKING:
    from fae_core.images import ImageSource
    from fae_encoder import FAEEncoder

_PREVIEW_IMAGES = 8


class PixelTask(Task):
    """A pixel decoder against target images. Subclasses say which features it sees (`inputs`) and what is exported."""

    ema_modules = ("pixel_decoder",)

    def __init__(
        self,
        encoder: FAEEncoder,
        decoder: PixelDecoder,
        source: ImageSource,
        losses: PixelLossConfig,
        data: DataConfig,
        gradient_checkpointing: bool,
    ) -> None:
        if (decoder.config.feature_dim, decoder.config.grid) != (encoder.backbone.dim, tuple(encoder.backbone.grid)):
            raise FAEError(
                f"the backbone gives {encoder.backbone.dim} channels on {tuple(encoder.backbone.grid)}, the pixel decoder takes "
                f"{decoder.config.feature_dim} on {decoder.config.grid}"
            )
        self.encoder = encoder
        self.losses = PixelLoss(losses, decoder.config.image_shape)
        self.data = StageData(source, encoder, data, decoder.config.image_shape)
        decoder.gradient_checkpointing = gradient_checkpointing
        self.modules: dict[str, nn.Module] = {"pixel_decoder": decoder}
        self.phases = [Phase("decoder", ("pixel_decoder",), self._decoder_loss)]
        # What the decoder painted in this step, by the batch's first slot: the discriminator judges the same images.
        self._painted: dict[int, Tensor] = {}
        if self.losses.discriminator is not None:
            self.modules["discriminator"] = self.losses.discriminator
            self.phases.append(
                Phase(
                    "discriminator",
                    ("discriminator",),
                    self._discriminator_loss,
                    learning_rate=losses.discriminator_learning_rate,
                    betas=losses.discriminator_betas,
                    start_step=losses.discriminator_start,
                )
            )

    def __len__(self) -> int:
        return len(self.data)

    @property
    def blocks(self) -> list[int] | None:
        return self.data.blocks

    def to(self, device: str) -> None:
        self.data.to(device)
        self.losses.to(device)
        self.prepare()

    def load(self, indices: list[int], random: SlotRandom) -> dict[str, Tensor]:
        return self.data.load(indices, random)

    @abstractmethod
    def prepare(self) -> None:
        """Measure what the stage needs from the data, once, before the first step."""

    @abstractmethod
    def inputs(self, features: Tensor, random: SlotRandom) -> Tensor:
        """What the decoder sees in training (B, N, D), given the frozen features."""

    @abstractmethod
    def clean_inputs(self, features: Tensor) -> Tensor:
        """What it sees when it is used."""

    def preview(self, folder: Path, step: int, modules: dict[str, nn.Module]) -> dict[str, float]:
        """Targets above what is painted, and the PSNR of these few images."""
        rows = [i * len(self) // _PREVIEW_IMAGES for i in range(min(len(self), _PREVIEW_IMAGES))]
        images = load_batch(self.data.source, rows, self.data.image_size).to(self.data.device)
        target = self.data.as_target(images)
        painted = modules["pixel_decoder"].to(images.device)(self.clean_inputs(self.data.features(images)))
        painted = painted.float().clamp(0, 1)
        grid = torch.cat([target, painted]).cpu()
        save_grid(grid, folder / f"step-{step:08d}.png", len(rows), row_labels=["image", "painted"])
        mse = (painted - target).square().flatten(1).mean(1)
        return {"preview_psnr": float((-10 * mse.clamp_min(1e-10).log10()).mean())}

    def _decoder_loss(self, batch: dict[str, Tensor], random: SlotRandom) -> dict[str, Tensor]:
        decoder = self.modules["pixel_decoder"]
        with torch.no_grad():
            inputs = self.inputs(self.data.batch_features(batch), random)
        painted = decoder(inputs)
        if self.losses.discriminator is not None:
            self._painted[random.slots[0]] = painted.detach()
        return self.losses.decoder_terms(painted, batch["target"], random, decoder.last_layer)

    def _discriminator_loss(self, batch: dict[str, Tensor], random: SlotRandom) -> dict[str, Tensor]:
        return self.losses.discriminator_terms(self._painted.pop(random.slots[0]), batch["target"], random)
