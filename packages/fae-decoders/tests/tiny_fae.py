"""Tiny stages on synthetic images, shared by the tests of stages, folder and commands."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from fae_core.images import ImageSource
from fae_core.training import TrainConfig
from fae_decoders import FeatureDecoder, PixelDecoder
from fae_decoders.losses import PixelLossConfig
from fae_decoders.stages import (
    AutoencoderConfig,
    AutoencoderTask,
    PixelNoiseConfig,
    PixelNoiseTask,
)
from fae_encoder import FAEEncoder

TRAINING = TrainConfig(steps=12, batch_size=4, learning_rate=2e-3, ema_decay=0.5, checkpoint_every=4, log_every=1)
PAINT = PixelLossConfig(l1=1.0, l2=1.0, perceptual="none")


class Gradients(ImageSource):
    """64-pixel colour gradients, each with its own direction and colours."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Image.Image:
        random = np.random.default_rng(index)
        y, x = np.mgrid[0:64, 0:64] / 63
        ramp = np.clip(x * random.uniform(-1, 1) + y * random.uniform(-1, 1) + 0.5, 0, 1)[..., None]
        pixels = ramp * random.uniform(0, 255, 3) + (1 - ramp) * random.uniform(0, 255, 3)
        return Image.fromarray(pixels.astype(np.uint8))

    def name(self, index: int) -> str:
        return f"gradient {index}"


def make_encoder(**overrides: object) -> FAEEncoder:
    torch.manual_seed(0)
    return FAEEncoder.from_preset("fae-tiny", **overrides)


def make_autoencoder_task(encoder: FAEEncoder | None = None, **fields: object) -> AutoencoderTask:
    encoder = encoder or make_encoder(standardize_features=True)
    torch.manual_seed(1)
    decoder = FeatureDecoder.from_preset("feature-decoder-tiny", spec=encoder.spec, feature_dim=encoder.backbone.dim)
    return AutoencoderTask(encoder, decoder, Gradients(10), AutoencoderConfig(**fields))


def make_noise_task(encoder: FAEEncoder | None = None, losses: PixelLossConfig = PAINT, **fields) -> PixelNoiseTask:
    encoder = encoder or make_encoder(standardize_features=True)
    torch.manual_seed(2)
    decoder = PixelDecoder.from_preset("pixel-decoder-tiny", feature_dim=encoder.backbone.dim)
    return PixelNoiseTask(encoder, decoder, Gradients(10), PixelNoiseConfig(losses=losses, **fields))
