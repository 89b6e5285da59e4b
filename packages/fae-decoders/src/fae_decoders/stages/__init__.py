"""FAE's three training stages, one file each, as tasks of fae_core.training.

autoencoder is stage Ia, pixel_noise Ib, pixel_finetune II; vae trains the baseline tokenizer. The other files hold what
more than one of them needs.
"""

from fae_decoders.stages.autoencoder import AutoencoderConfig, AutoencoderTask
from fae_decoders.stages.data import DataConfig
from fae_decoders.stages.pixel_finetune import PixelFinetuneConfig, PixelFinetuneTask
from fae_decoders.stages.pixel_noise import PixelNoiseConfig, PixelNoiseTask
from fae_decoders.stages.vae import VAEConfig, VAETask

__all__ = [
    "AutoencoderConfig",
    "AutoencoderTask",
    "DataConfig",
    "PixelFinetuneConfig",
    "PixelFinetuneTask",
    "PixelNoiseConfig",
    "PixelNoiseTask",
    "VAEConfig",
    "VAETask",
]
