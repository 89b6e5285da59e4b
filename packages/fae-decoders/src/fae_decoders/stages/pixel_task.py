"""What stages Ib and II share: a pixel decoder learns to decode some kind of features, with or without a GAN."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from fae_core.models.no_init import no_initial_weights
from fae_core.random import SlotRandom
from fae_core.training import Phase, Task
from fae_decoders.fae.any_pixel_decoder import AnyPixelDecoder
from fae_decoders.fae.stored import require_sizes
from fae_decoders.losses.config import PixelLossConfig
from fae_decoders.losses.pixel import PixelLoss
from fae_decoders.stages.adversary import Adversary
from fae_decoders.stages.config import DataConfig
from fae_decoders.stages.data import StageData
from fae_decoders.stages.preview import preview_rows, save_preview

if TYPE_CHECKING:
    from fae_core.images import ImageSource
    from fae_encoder import FAEEncoder
    from fae_encoder.store.feature_store import FeatureStore


class PixelTask(Task):
    """A pixel decoder against target images. Subclasses say which features it sees (`inputs`) and what is exported.

    Args:
        encoder: Makes the features; frozen.
        decoder: Is trained.
        source: The images.
        losses: Weights and choices of the loss terms.
        data: How the images are read.
        gradient_checkpointing: Recompute the decoder's blocks in the backward pass.
        features: Known features of the same images, read instead of computed.
        discriminator: Checkpoint of another run whose discriminator goes on; None begins with a new one.

    Raises:
        FAEError: The decoder is for features of another width or grid.
        InvalidFile: The checkpoint has another discriminator.
    """

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
        discriminator: Path | None = None,
    ) -> None:
        require_sizes(decoder.config, (encoder.backbone.dim, *encoder.backbone.grid))
        self.encoder = encoder
        self.losses = PixelLoss(losses, decoder.config.image_shape)
        self.data = StageData(source, encoder, data, decoder.config.image_shape, features)
        self.read_groups = self.data.read_groups
        decoder.gradient_checkpointing = gradient_checkpointing
        self.modules: dict[str, nn.Module] = {"pixel_decoder": decoder}
        self.phases = [Phase("decoder", ("pixel_decoder",), self._decoder_loss)]
        self._adversary = Adversary(self.losses, self.modules, self.phases, discriminator)
        self.micro_batch_matters = self.losses.micro_batch_matters

    def __len__(self) -> int:
        return len(self.data)

    def identity(self) -> dict[str, Any]:
        kept = self._adversary.kept
        going_on = {} if kept is None else {"discriminator": kept}
        return {**self.data.identity(), **self.losses.identity(), **going_on}

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
        """What the decoder sees in training (B, N, D), given the frozen features (B, N, D).

        Args:
            features: Normalised features of the frozen encoder, (B, N, D).
            random: B slots, for noise.
        """

    @abstractmethod
    def clean_inputs(self, features: Tensor) -> Tensor:
        """What the decoder sees when it is used (B, N, D), given the frozen features (B, N, D).

        Args:
            features: Normalised features of the frozen encoder, (B, N, D).
        """

    def preview(self, folder: Path, step: int, modules: dict[str, nn.Module]) -> dict[str, float]:
        images, target = (x.to(self.data.device) for x in self.data.read(preview_rows(len(self))))
        decoded = modules["pixel_decoder"].to(images.device)(self.clean_inputs(self.data.features(images)))
        return save_preview(target, decoded, folder, step)

    def _decoder_loss(self, batch: dict[str, Tensor], random: SlotRandom) -> dict[str, Tensor]:
        decoder = _pixel_decoder(self.modules)
        with torch.no_grad():
            inputs = self.inputs(self.data.batch_features(batch), random)
        decoded = decoder(inputs)
        self._adversary.remember(decoded, random)
        return self.losses.decoder_terms(decoded, batch["target"], random, decoder.last_layer)

    @staticmethod
    def _trained_decoder(modules: dict[str, nn.Module], **learned: object) -> AnyPixelDecoder:
        """A copy of the trained decoder on the CPU, with `learned` fields in its config."""
        trained = _pixel_decoder(modules)
        config = trained.config.model_copy(update=learned)
        with no_initial_weights():
            decoder = type(trained)(config)  # pyright: ignore[reportArgumentType] (the class's own config)
        decoder.load_state_dict({name: value.cpu() for name, value in trained.state_dict().items()})
        return decoder


def _pixel_decoder(modules: dict[str, nn.Module]) -> AnyPixelDecoder:
    """The decoder among a task's modules."""
    return cast("AnyPixelDecoder", modules["pixel_decoder"])
