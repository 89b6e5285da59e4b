"""The three training stages, one file each, as tasks of fae_core.training: autoencoder (Ia), pixel_noise (Ib), pixel_finetune
(II). data, statistics and pixel_task hold what more than one of them needs."""

from fae_decoders.stages.autoencoder import AutoencoderConfig, AutoencoderTask
from fae_decoders.stages.data import DataConfig
from fae_decoders.stages.pixel_finetune import PixelFinetuneConfig, PixelFinetuneTask
from fae_decoders.stages.pixel_noise import PixelNoiseConfig, PixelNoiseTask

__all__ = [
    "AutoencoderConfig",
    "AutoencoderTask",
    "DataConfig",
    "PixelFinetuneConfig",
    "PixelFinetuneTask",
    "PixelNoiseConfig",
    "PixelNoiseTask",
]
