"""What the training stages minimise: vae (stage Ia), pixel (stages Ib and II) with its parts, alignment (baseline)."""

from fae_decoders.losses.pixel import PixelLoss, PixelLossConfig
from fae_decoders.losses.vae import cosine_loss, feature_loss

__all__ = ["PixelLoss", "PixelLossConfig", "cosine_loss", "feature_loss"]
