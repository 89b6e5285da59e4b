"""FAE's three training stages, one file each, as tasks of fae_core.training.

autoencoder is stage Ia, pixel_noise Ib, pixel_finetune II; vae trains the baseline tokenizer. config holds the settings
of each, the other files what more than one of them needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names

if TYPE_CHECKING:
    from fae_decoders.stages.autoencoder import AutoencoderTask as AutoencoderTask
    from fae_decoders.stages.config import AutoencoderConfig as AutoencoderConfig
    from fae_decoders.stages.config import DataConfig as DataConfig
    from fae_decoders.stages.config import PixelFinetuneConfig as PixelFinetuneConfig
    from fae_decoders.stages.config import PixelNoiseConfig as PixelNoiseConfig
    from fae_decoders.stages.config import VAEConfig as VAEConfig
    from fae_decoders.stages.pixel_finetune import PixelFinetuneTask as PixelFinetuneTask
    from fae_decoders.stages.pixel_noise import PixelNoiseTask as PixelNoiseTask
    from fae_decoders.stages.vae import VAETask as VAETask

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names]
