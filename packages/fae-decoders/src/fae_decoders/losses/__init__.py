"""What the training stages minimise: vae (stage Ia), pixel (stages Ib and II) with its parts, alignment (baseline)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names

if TYPE_CHECKING:
    from fae_decoders.losses.config import PixelLossConfig as PixelLossConfig
    from fae_decoders.losses.pixel import PixelLoss as PixelLoss
    from fae_decoders.losses.vae import cosine_loss as cosine_loss
    from fae_decoders.losses.vae import feature_loss as feature_loss

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names]
